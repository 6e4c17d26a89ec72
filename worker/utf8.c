/*
 * utf8.c - the session leaves ASCII: UTF8, LANG, SASLprep. Runs in a worker, inside its sandbox.
 * Handles secrets, which must not stay in any memory when it is done.
 */
#include "worker/utf8.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <stringprep.h>

enum { CHARACTERS_MAX = 1024 }; /* of a name or a password, while it is being prepared */

/* The administrator's first language. config_complete() has seen to it that there is one. */
static enum text_language preferred(const struct session *s)
{
    enum text_language language = TEXT_ENGLISH;
    const struct text_list *list = &s->config->server.languages;
    if (list->n > 0)
        text_find_language(list->items[0], &language);
    return language;
}

static bool is_offered(const struct session *s, enum text_language language)
{
    return textlist_has(&s->config->server.languages, text_tag(language));
}

void utf8_begin(struct session *s)
{
    s->utf8 = s->accents = false;
    s->language = preferred(s);
}

enum command_outcome utf8_run(struct session *s, const struct command_arguments *a)
{
    (void)a;
    if (!s->utf8 && s->logged_in && !view_use_utf8(&s->view)) {
        session_error(s, CODE_NONE, TEXT_UTF8_TOO_LATE);
        return COMMAND_DONE;
    }
    s->utf8 = s->accents = true;
    session_ok(s, TEXT_UTF8_ON);
    return COMMAND_DONE;
}

static void put_language(struct session *s, enum text_language language)
{
    stream_put_text(&s->stream, text_tag(language));
    stream_put(&s->stream, " ", 1);
    stream_put_text(&s->stream, text_name(language));
    stream_put_text(&s->stream, "\r\n");
}

enum command_outcome utf8_run_lang(struct session *s, const struct command_arguments *a)
{
    enum text_language language = preferred(s);
    if (a->n == 0) {
        session_ok(s, TEXT_LANGUAGES_FOLLOW);
        for (int i = 0; i < TEXT_LANGUAGES; i++)
            if (is_offered(s, (enum text_language)i))
                put_language(s, (enum text_language)i);
        stream_put_text(&s->stream, ".\r\n");
        return COMMAND_DONE;
    }
    bool any = strcmp(a->words[0], "*") == 0;
    if (!any && (!text_find_language(a->words[0], &language) || !is_offered(s, language))) {
        session_error(s, CODE_NONE, TEXT_LANGUAGE_UNKNOWN);
        return COMMAND_DONE;
    }
    s->language = language;
    s->accents = true;
    stream_put_text(&s->stream, "+OK ");
    stream_put_text(&s->stream, text_tag(language));
    stream_put(&s->stream, " ", 1);
    session_put_text(s, TEXT_LANGUAGE_CHOSEN);
    stream_put_text(&s->stream, "\r\n");
    return COMMAND_DONE;
}

/* libidn works on blocks from malloc and gives them back as they are. The next to ask for blocks of
 * those sizes gets them: we do, and wipe all that they have room for. */
static void wipe_freed(void)
{
    enum { SMALL = 1040, STEP = 16, EACH = 7, LARGE = 32768 };
    static void *blocks[SMALL / STEP * EACH + 1];
    size_t n = 0;
    for (size_t size = STEP; size < SMALL; size += STEP)
        for (int i = 0; i < EACH; i++)
            if ((blocks[n] = malloc(size)) != NULL)
                n++;
    if ((blocks[n] = malloc(LARGE)) != NULL)
        n++;
    while (n > 0) {
        explicit_bzero(blocks[n - 1], malloc_usable_size(blocks[n - 1]));
        free(blocks[--n]);
    }
}

/* Characters into UTF-8; false when there is no room. */
static bool encode(const uint32_t *characters, size_t n, char *to, size_t room, size_t *size)
{
    size_t put = 0;
    for (size_t i = 0; i < n; i++) {
        char octets[6];
        size_t length = (size_t)stringprep_unichar_to_utf8(characters[i], octets);
        if (length > room - put)
            return false;
        memcpy(to + put, octets, length);
        put += length;
    }
    *size = put;
    return true;
}

bool utf8_prepare(const char *text, size_t size, char *to, size_t room, size_t *prepared)
{
    uint32_t characters[CHARACTERS_MAX];
    size_t n = 0;
    bool good = false;
    /* Control characters are prohibited by SASLprep, too (RFC 4013 section 2.3). */
    if (size > CHARACTERS_MAX / 2 || !line_is_text(text, size))
        return false;
    for (size_t at = 0; at < size; n++) {
        characters[n] = stringprep_utf8_to_unichar(text + at);
        at += (unsigned char)text[at] < 0x80   ? 1
              : (unsigned char)text[at] < 0xe0 ? 2
              : (unsigned char)text[at] < 0xf0 ? 3
                                               : 4;
    }
    if (stringprep_4i(characters, &n, CHARACTERS_MAX, 0, stringprep_saslprep) == STRINGPREP_OK)
        good = encode(characters, n, to, room, prepared);
    explicit_bzero(characters, sizeof characters);
    wipe_freed();
    return good;
}
