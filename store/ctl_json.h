/*
 * ctl_json.h - results for programs: one object, or an array that is printed object by object, for
 * there may be more maildrops and messages than memory holds objects.
 */
#ifndef POPLAR_STORE_CTL_JSON_H
#define POPLAR_STORE_CTL_JSON_H

#include "store/ctl.h"
#include <jansson.h>

/* With --json: begin and end an array on standard output; without, nothing. The end is 0, or the
 * exit status of the first element that could not be printed. */
void ctl_json_begin(const struct ctl *ctl);
int ctl_json_end(const struct ctl *ctl);

/* Print an object, which is released: as an element of the array, or with a line end of its own.
 * NULL (what was to go in is not UTF-8) is said, and is a failure. 0, or an exit status. */
int ctl_json_print(json_t *object, bool element);

/* A name of a user or file, or a text with some, for JSON: escaped where it is not UTF-8. */
json_t *ctl_json_name(const char *name);

#endif
