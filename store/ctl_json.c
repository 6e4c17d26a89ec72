/*
 * ctl_json.c - results for programs. Runs in poplarctl; prints only.
 */
#include "store/ctl_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static struct {
    size_t elements;
    int status;
} array;

void ctl_json_begin(const struct ctl *ctl)
{
    array.elements = 0;
    array.status = 0;
    if (ctl->options & CTL_JSON)
        putchar('[');
}

int ctl_json_end(const struct ctl *ctl)
{
    if (ctl->options & CTL_JSON)
        puts(array.elements > 0 ? "\n]" : "]");
    return array.status;
}

static int print(json_t *object, const char *before, const char *after)
{
    if (!object)
        return ctl_fail(EX_DATAERR, "a name is not UTF-8, so not for JSON, or out of memory");
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!text)
        return ctl_fail(EX_OSERR, "out of memory");
    printf("%s%s%s", before, text, after);
    free(text);
    return 0;
}

int ctl_json_print(json_t *object, bool element)
{
    if (!element)
        return print(object, "", "\n");
    int status = print(object, array.elements > 0 ? ",\n" : "\n", "");
    array.elements += status == 0;
    array.status = array.status ? array.status : status;
    return status;
}

json_t *ctl_json_name(const char *name)
{
    json_t *text = json_string(name);
    if (text)
        return text;
    size_t size = 4 * strlen(name) + 1;
    char *safe = base_alloc(size);
    base_escape(safe, size, name);
    text = json_string(safe);
    free(safe);
    return text;
}
