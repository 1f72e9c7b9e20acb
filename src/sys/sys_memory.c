#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>
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
