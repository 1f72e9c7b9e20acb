/* USDT probes of the provider weir: a nop where one is, and a note in the program that says where,
 * and where its arguments are found; bpftrace, perf and SystemTap make a breakpoint of it while
 * they look. docs/PROBES.md has them all, which a test compares with the program. Arguments are
 * evaluated always: they are values at hand. Text is passed as a pointer to what outlives the
 * probe. Without <sys/sdt.h> (systemtap-sdt-dev) there are none, as Meson says. */
#ifndef WEIR_PROBE_H
#define WEIR_PROBE_H

#if __has_include(<sys/sdt.h>)
#define SDT_USE_VARIADIC
#include <sys/sdt.h>
#define PROBE(name, ...) STAP_PROBEV(weir, name, __VA_ARGS__)
#else
static inline void probe_none(int any, ...)
{
    (void)any;
}
#define PROBE(name, ...) probe_none(0, __VA_ARGS__)
#endif

#endif
