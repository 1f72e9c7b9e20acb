/* Names of the program's functions, out of its own file: read only as a profile is written, through
 * descriptors that were opened before the cage, a piece at a time. */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <unistd.h>

#include "sys/sys_profile.h"

enum { CHUNK = 32 << 10, SECTIONS = 128 };

static struct sys_object objects[SYS_OBJECTS];
static unsigned n_objects;

unsigned sys_objects(const struct sys_object **out)
{
    *out = objects;
    return n_objects;
}

static int object_add(struct dl_phdr_info *info, size_t n, void *arg)
{
    (void)n, (void)arg;
    const char *file = n_objects ? info->dlpi_name : "/proc/self/exe";
    if (n_objects == SYS_OBJECTS)
        return 1;
    struct sys_object *o = &objects[n_objects];
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        if (h->p_type != PT_LOAD || !(h->p_flags & PF_X))
            continue;
        *o = (struct sys_object){.base = info->dlpi_addr,
                                 .from = info->dlpi_addr + h->p_vaddr,
                                 .to = info->dlpi_addr + h->p_vaddr + h->p_memsz,
                                 .offset = h->p_offset};
        o->fd = *file ? open(file, O_RDONLY | O_CLOEXEC) : -1; /* the kernel's own has none */
        ssize_t r = n_objects ? -1 : readlink(file, o->name, sizeof(o->name) - 1);
        if (r < 0)
            snprintf(o->name, sizeof(o->name), "%s", *file ? file : "[vdso]");
        n_objects++;
        return 0;
    }
    return 0;
}

void sys_profile_open(void)
{
    if (!n_objects)
        dl_iterate_phdr(object_add, NULL);
}

static bool take(int fd, uint64_t offset, void *p, size_t n)
{
    return pread(fd, p, n, (off_t)offset) == (ssize_t)n;
}

/* The section of the symbols, and the file offset of their names. */
static bool table_find(int fd, ElfW(Shdr) * out, uint64_t *names)
{
    ElfW(Ehdr) head;
    ElfW(Shdr) sections[SECTIONS];
    if (fd < 0 || !take(fd, 0, &head, sizeof(head)) || head.e_shentsize != sizeof(sections[0]) ||
        !head.e_shnum || head.e_shnum > SECTIONS ||
        !take(fd, head.e_shoff, sections, head.e_shnum * sizeof(sections[0])))
        return false;
    const ElfW(Shdr) *found = NULL;
    for (unsigned i = 0; i < head.e_shnum; i++)
        if (sections[i].sh_type == SHT_SYMTAB || (sections[i].sh_type == SHT_DYNSYM && !found))
            found = &sections[i];
    if (!found || found->sh_link >= head.e_shnum || found->sh_entsize != sizeof(ElfW(Sym)))
        return false;
    *out = *found;
    *names = sections[found->sh_link].sh_offset;
    return true;
}

/* The first of s whose pc is not below. */
static size_t first_from(const struct sys_symbol *s, size_t n, uint64_t pc)
{
    size_t low = 0;
    while (low < n) {
        size_t middle = (low + n) / 2;
        if (s[middle].pc < pc)
            low = middle + 1;
        else
            n = middle;
    }
    return low;
}

static void object_find(const struct sys_object *o, struct sys_symbol *s, size_t n)
{
    ElfW(Shdr) table;
    uint64_t names;
    ElfW(Sym) *chunk = mem_alloc(CHUNK);
    const size_t most = CHUNK / sizeof(*chunk);
    if (!chunk || !table_find(o->fd, &table, &names)) {
        mem_free(chunk, CHUNK);
        return;
    }
    for (uint64_t i = 0, left = table.sh_size / sizeof(*chunk), k; left; i += k, left -= k) {
        k = MIN(left, most);
        if (!take(o->fd, table.sh_offset + i * sizeof(*chunk), chunk, k * sizeof(*chunk)))
            break;
        for (uint64_t j = 0; j < k; j++) {
            const ElfW(Sym) *sym = &chunk[j];
            unsigned type = ELF64_ST_TYPE(sym->st_info);
            uint64_t from = o->base + sym->st_value;
            if ((type != STT_FUNC && type != STT_GNU_IFUNC) || !sym->st_value || !sym->st_size)
                continue;
            for (size_t x = first_from(s, n, from); x < n && s[x].pc - from < sym->st_size; x++) {
                s[x].from = from;
                s[x].name_at = names + sym->st_name;
            }
        }
    }
    mem_free(chunk, CHUNK);
}

void sys_symbols_find(struct sys_symbol *s, size_t n)
{
    for (unsigned i = 0; i < n_objects; i++) {
        const struct sys_object *o = &objects[i];
        size_t from = first_from(s, n, o->from), to = first_from(s, n, o->to);
        for (size_t x = from; x < to; x++)
            s[x].object = i + 1;
        if (from < to)
            object_find(o, s + from, to - from);
    }
}

size_t sys_symbol_name(const struct sys_symbol *s, char *out, size_t cap)
{
    ssize_t n = s->from ? pread(objects[s->object - 1].fd, out, cap - 1, (off_t)s->name_at) : 0;
    out[n > 0 ? n : 0] = 0;
    return strlen(out);
}
