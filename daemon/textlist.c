/*
 * textlist.c - lists of words, as settings have them. Runs in every process that reads the
 * configuration; pure.
 */
#include "daemon/textlist.h"
#include "daemon/base.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void textlist_clear(struct text_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->items[i]);
    free(list->items);
    list->items = NULL;
    list->n = 0;
}

void textlist_add(struct text_list *list, const char *text, size_t length)
{
    list->items = base_grow(list->items, list->n, sizeof *list->items);
    list->items[list->n++] = base_format("%.*s", (int)length, text);
}

bool textlist_has(const struct text_list *list, const char *word)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcasecmp(list->items[i], word) == 0)
            return true;
    return false;
}

/* Comma-separated; blanks around items do not count. */
void textlist_set(struct text_list *list, const char *text)
{
    textlist_clear(list);
    while (*text) {
        text += strspn(text, ", \t");
        size_t length = strcspn(text, ",");
        size_t kept = length;
        while (kept > 0 && isblank((unsigned char)text[kept - 1]))
            kept--;
        if (kept > 0)
            textlist_add(list, text, kept);
        text += length;
    }
}

void textlist_add_word(char *list, size_t size, const char *word)
{
    size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%s", used ? ", " : "", word);
}
