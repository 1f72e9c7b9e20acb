#include "app/config_reader.h"

static bool certificate_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_certificate *c = base;
    const char *name = reader_key(key);
    bool is_key = strcmp(name, "key") == 0;
    if (!is_key && strcmp(name, "certificate") != 0)
        return false;
    char *text = reader_expand(r, value), **field = is_key ? &c->key : &c->certificate;
    if (text && !*text)
        reader_fail(r, value, "%s is a file", name);
    *field = text ? reader_resolve(r->file, text) : NULL;
    return true;
}

static const struct reader_map certificate_map = {
    READER_KEYS, .form = "certificate: FILE, key: FILE", .rows = reader_no_rows,
    .extra = certificate_extra, .known = "certificate, key"};

static void certificate_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config *c = base;
    c->certificates = reader_grow(c->certificates, &c->n_certificates, sizeof(*c->certificates));
    struct config_certificate *one = &c->certificates[c->n_certificates - 1];
    unsigned before = r->problems;
    one->line = (unsigned)item->start_mark.line + 1;
    one->listener = UINT32_MAX; /* the one that is being read */
    reader_map_read(r, item, &certificate_map, one);
    if (r->problems == before && !(one->certificate && one->key))
        reader_fail(r, item, "tls needs certificate: FILE and key: FILE");
}

static const struct reader_list certificates_list = {"certificate",
                                                     "[{certificate: FILE, key: FILE}]", 1,
                                                     CONFIG_CERTIFICATES_MAX, certificate_read};

void config_certificates_read(struct reader *r, yaml_node_t *value, struct config *c)
{
    if (value->type == YAML_MAPPING_NODE)
        certificate_read(r, value, c);
    else
        reader_list_read(r, value, &certificates_list, c);
}
