/* `weir new` and `weir dev`: a project's beginning, and its daily round. */
#ifndef WEIR_SCAFFOLD_H
#define WEIR_SCAFFOLD_H

/* Both take what follows the command, and return the exit status. */
int scaffold_new(char **args); /* NAME --lang LANG: makes the folder NAME */
int scaffold_dev(char **args); /* `make`, and serve: again at each change */

#endif
