#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "sys/sys.h"

void sys_memory_trim(void)
{
    malloc_trim(0);
}

uint64_t sys_memory_pss(void)
{
    char text[2048];
    int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *at = strstr(text, "\nPss:");
    return at ? strtoull(at + 5, NULL, 10) * 1024 : 0;
}

static char *page_align(char *p, bool up)
{
    uintptr_t mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
    return (char *)(((uintptr_t)p + (up ? mask : 0)) & ~mask);
}

void sys_data_drop(char *from, char *to)
{
    from = page_align(from, true);
    to = page_align(to, false);
    if (from < to)
        (void)madvise(from, (size_t)(to - from), MADV_DONTNEED);
}

void sys_data_seal(char *from, char *to)
{
    from = page_align(from, true);
    to = page_align(to, false);
    if (from < to)
        (void)mprotect(from, (size_t)(to - from), PROT_READ);
}

static int segments_trim(struct dl_phdr_info *info, size_t n, void *arg)
{
    (void)n, (void)arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        char *at = (char *)(uintptr_t)(info->dlpi_addr + h->p_vaddr);
        if (h->p_type == PT_LOAD && !(h->p_flags & PF_W))
            sys_data_drop(at, at + h->p_memsz);
    }
    return 0;
}

void sys_code_trim(void)
{
    dl_iterate_phdr(segments_trim, NULL);
}

/* ---- /proc/self, by descriptors that were opened before the cage ---- */

static int statm = -1, fds = -1, smaps = -1;
static uint64_t started_ms;
static uint32_t fds_max;

void sys_process_open(void)
{
    started_ms = sys_wall_ms();
    fds_max = sys_fd_limit();
    statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    smaps = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    fds = open("/proc/self/fd", O_PATH | O_CLOEXEC);
}

void sys_process(struct sys_process *out)
{
    char text[128], *end = text;
    struct timespec t;
    ssize_t n = pread(statm, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    *out = (struct sys_process){.started_ms = started_ms, .fds_max = fds_max};
    out->cpu_ns = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    out->reserved = strtoull(text, &end, 10) * (uint64_t)getpagesize();
    out->resident = strtoull(end, NULL, 10) * (uint64_t)getpagesize();
    out->fds = fds < 0 ? 0 : sys_file_size(fds);
}

ssize_t sys_maps_read(uint64_t at, void *p, size_t n)
{
    return pread(smaps, p, n, (off_t)at);
}

void sys_malloc(struct sys_malloc *out)
{
    struct mallinfo2 m = mallinfo2(); /* of all arenas */
    *out = (struct sys_malloc){
        .used = m.uordblks + m.hblkhd, .free = m.fordblks, .mapped = m.hblkhd};
}
