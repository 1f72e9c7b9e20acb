/* The worker: the process that serves. It is started by the supervisor, which sends it all that it
 * needs; it opens no file and parses no WebAssembly. */
#ifndef WEIR_WORKER_H
#define WEIR_WORKER_H

int worker_main(void); /* the exit status */

#endif
