/*
 * textlist.h - lists of words, as settings have them.
 */
#ifndef POPLAR_DAEMON_TEXTLIST_H
#define POPLAR_DAEMON_TEXTLIST_H

#include <stdbool.h>
#include <stddef.h>

struct text_list {
    size_t n;
    char **items;
};

/* Free what is in it; it is empty then. */
void textlist_clear(struct text_list *list);
void textlist_add(struct text_list *list, const char *text, size_t length); /* a copy */
/* Whether it has this word, in any case. */
bool textlist_has(const struct text_list *list, const char *word);
/* What stands between commas, in place of what was there; blanks around items do not count. */
void textlist_set(struct text_list *list, const char *text);

/* Add a word to a line, behind a comma if it is not the first; cut where it does not fit. */
void textlist_add_word(char *line, size_t size, const char *word);

#endif
