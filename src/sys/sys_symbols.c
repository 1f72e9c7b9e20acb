/* Names of the program's functions, out of its own file: read only as a profile is written, through
 * descriptors that were opened before the cage, a piece at a time. */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <unistd.h>
#include <zlib.h>

#include "sys/sys_profile.h"

enum { CHUNK = 32 << 10, SECTIONS = 64, NAME = 512 };

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

/* Where the names of functions come from: a symbol table and the file offset of its names, or, of a
 * program that was stripped, what deploy/symbols has left. */
struct table {
    ElfW(Shdr) section;
    uint64_t names;
    bool packed;
};

static bool table_find(int fd, struct table *out)
{
    static const char packed[] = ".weir_symbols";
    ElfW(Ehdr) head;
    ElfW(Shdr) sections[SECTIONS];
    char name[sizeof(packed)];
    if (fd < 0 || !take(fd, 0, &head, sizeof(head)) || head.e_shentsize != sizeof(sections[0]) ||
        !head.e_shnum || head.e_shnum > SECTIONS || head.e_shstrndx >= head.e_shnum ||
        !take(fd, head.e_shoff, sections, head.e_shnum * sizeof(sections[0])))
        return false;
    const ElfW(Shdr) *found = NULL;
    uint64_t texts = sections[head.e_shstrndx].sh_offset;
    for (unsigned i = 0; i < head.e_shnum; i++) {
        const ElfW(Shdr) *x = &sections[i];
        out->packed = x->sh_type == SHT_PROGBITS && !x->sh_addr &&
                      take(fd, texts + x->sh_name, name, sizeof(name)) &&
                      memcmp(name, packed, sizeof(packed)) == 0;
        if (out->packed || x->sh_type == SHT_SYMTAB || (x->sh_type == SHT_DYNSYM && !found))
            found = x;
        if (out->packed)
            break;
    }
    if (!found)
        return false;
    out->section = *found;
    if (out->packed)
        return true;
    if (found->sh_link >= head.e_shnum || found->sh_entsize != sizeof(ElfW(Sym)))
        return false;
    out->names = sections[found->sh_link].sh_offset;
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

/* What is looked for in an object, and where the names go. */
struct search {
    const struct sys_object *object;
    struct sys_symbol *s;
    size_t n;
    struct buf *names;
};

/* Those within [value, value + size) of the object are that function's. */
static bool found_in(const struct search *f, uint64_t value, uint64_t size, size_t *from,
                     size_t *to)
{
    uint64_t begin = f->object->base + value;
    *from = *to = first_from(f->s, f->n, begin);
    while (*to < f->n && f->s[*to].pc - begin < size)
        ++*to;
    return *from < *to;
}

static void name_set(const struct search *f, uint64_t value, size_t from, size_t to,
                     struct slice name)
{
    uint32_t at = f->names->len;
    if (buf_reserve(f->names, name.n + 1))
        return;
    slice_copy(f->names->p + at, name);
    f->names->p[at + name.n] = 0;
    f->names->len += (uint32_t)name.n + 1;
    for (size_t i = from; i < to; i++) {
        f->s[i].from = f->object->base + value;
        f->s[i].name_at = at;
    }
}

static void plain_read(const struct search *f, const struct table *t, ElfW(Sym) * chunk)
{
    const size_t most = CHUNK / sizeof(*chunk);
    int fd = f->object->fd;
    size_t from, to;
    char name[NAME];
    for (uint64_t i = 0, left = t->section.sh_size / sizeof(*chunk), k; left; i += k, left -= k) {
        k = MIN(left, most);
        if (!take(fd, t->section.sh_offset + i * sizeof(*chunk), chunk, k * sizeof(*chunk)))
            return;
        for (uint64_t j = 0; j < k; j++) {
            const ElfW(Sym) *sym = &chunk[j];
            unsigned type = ELF64_ST_TYPE(sym->st_info);
            if ((type != STT_FUNC && type != STT_GNU_IFUNC) || !sym->st_value || !sym->st_size ||
                !found_in(f, sym->st_value, sym->st_size, &from, &to))
                continue;
            ssize_t n = pread(fd, name, sizeof(name), (off_t)(t->names + sym->st_name));
            name_set(f, sym->st_value, from, to,
                     slice_of(name, strnlen(name, n > 0 ? (size_t)n : 0)));
        }
    }
}

/* Takes whole records, each {value 4, size 4, length 1, name}; returns bytes. */
static size_t records_read(const struct search *f, const uint8_t *p, size_t n)
{
    size_t at = 0, from, to;
    for (; n - at >= 9 && n - at >= 9u + p[at + 8]; at += 9u + p[at + 8]) {
        uint32_t head[2];
        memcpy(head, p + at, sizeof(head));
        if (found_in(f, head[0], head[1], &from, &to))
            name_set(f, head[0], from, to, slice_of(p + at + 9, p[at + 8]));
    }
    return at;
}

static void packed_read(const struct search *f, const struct table *t, uint8_t *chunk)
{
    enum { IN = 4 << 10 };
    uint8_t in[IN];
    z_stream z = {.next_in = in};
    size_t have = 0;
    int r = inflateInit(&z);
    for (uint64_t at = 0; r == Z_OK;) {
        size_t n = z.avail_in ? 0 : MIN(t->section.sh_size - at, (uint64_t)IN);
        if (n && !take(f->object->fd, t->section.sh_offset + at, in, n))
            break;
        z.next_in = n ? in : z.next_in;
        z.avail_in += (uInt)n;
        at += n;
        z.next_out = chunk + have;
        z.avail_out = (uInt)(CHUNK - have);
        r = inflate(&z, Z_NO_FLUSH);
        have = CHUNK - z.avail_out;
        size_t took = records_read(f, chunk, have);
        memmove(chunk, chunk + took, have -= took);
    }
    inflateEnd(&z);
}

static void object_find(const struct search *f)
{
    struct table t;
    void *chunk = mem_alloc(CHUNK);
    if (chunk && table_find(f->object->fd, &t)) {
        if (t.packed)
            packed_read(f, &t, chunk);
        else
            plain_read(f, &t, chunk);
    }
    mem_free(chunk, CHUNK);
}

void sys_symbols_find(struct sys_symbol *s, size_t n, struct buf *names)
{
    for (unsigned i = 0; i < n_objects; i++) {
        const struct sys_object *o = &objects[i];
        size_t from = first_from(s, n, o->from), to = first_from(s, n, o->to);
        const struct search f = {o, s + from, to - from, names};
        for (size_t x = from; x < to; x++)
            s[x].object = i + 1;
        if (from < to)
            object_find(&f);
    }
}
