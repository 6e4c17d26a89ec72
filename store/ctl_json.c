/*
 * ctl_json.c - results for programs. Runs in poplarctl; prints only.
 */
#include "store/ctl_json.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static struct {
    size_t elements;
} array;

void ctl_json_begin(const struct ctl *ctl)
{
    array.elements = 0;
    if (ctl->options & CTL_JSON)
        putchar('[');
}

void ctl_json_separate(const struct ctl *ctl, bool element)
{
    if (element && ctl->options & CTL_JSON)
        fputs(array.elements++ > 0 ? ",\n" : "\n", stdout);
}

void ctl_json_end(const struct ctl *ctl)
{
    if (ctl->options & CTL_JSON)
        puts(array.elements > 0 ? "\n]" : "]");
}

int ctl_json_print(const struct ctl *ctl, json_t *object, bool element)
{
    if (!object)
        return ctl_fail(EX_DATAERR, "a name is not UTF-8, so not for JSON");
    ctl_json_separate(ctl, element);
    json_dumpf(object, stdout, JSON_COMPACT);
    json_decref(object);
    if (!element)
        putchar('\n');
    return 0;
}

json_t *ctl_json_name(const char *name)
{
    char safe[4 * PROTO_USER_MAX + 1];
    json_t *text = json_string(name);
    if (text)
        return text;
    base_escape(safe, sizeof safe, name);
    return json_string(safe);
}
