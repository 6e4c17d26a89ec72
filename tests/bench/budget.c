/*
 * budget.c - work of a known size on the hot paths, for callgrind to count (test_budget.py).
 *
 *   budget parser|stuffing|listing|login
 *
 * What is counted is the function budget_work() alone; the rest is set-up.
 */
#include "daemon/base.h"
#include "store/maildrop.h"
#include "worker/commands.h"
#include "worker/line.h"
#include "worker/wire.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum { COMMANDS = 1000, TEXT_SIZE = 1 << 20, MESSAGES = 1000, GRANT_FD = 50 };

static size_t limit(const void *context, const char *beginning, size_t size)
{
    (void)context, (void)beginning, (void)size;
    return 255;
}

/* A thousand commands, as they come from a client that waits for each answer. */
static bool parse(void)
{
    static struct line_input in;
    static const char command[] = "TOP 123 10\r\n";
    const char *words[3];
    struct line line;
    uint64_t number;
    for (int i = 0; i < COMMANDS; i++) {
        size_t space;
        memcpy(line_space(&in, &space), command, sizeof command - 1);
        line_added(&in, sizeof command - 1);
        if (line_next(&in, limit, NULL, &line) != LINE_OK || !line_is_text(line.text, line.size) ||
            !commands_find(true, line.text, line_word(line.text, line.size)) ||
            line_split(line.text, words, 3) != 3 || !line_number(words[1], &number))
            return false;
        line_release(&in);
    }
    return true;
}

static unsigned char text[TEXT_SIZE], stuffed[TEXT_SIZE * 2];

static void make_text(void)
{
    for (size_t i = 0; i < TEXT_SIZE; i++)
        text[i] = i % 78 == 76 ? '\r' : i % 78 == 77 ? '\n' : i % 780 == 0 ? '.' : 'x';
}

/* A megabyte in lines of 78 octets, a tenth of which begin with a dot. */
static bool stuff(void)
{
    struct wire wire = {0};
    size_t taken;
    return wire_stuff(&wire, text, TEXT_SIZE, stuffed, sizeof stuffed, &taken) > TEXT_SIZE &&
           taken == TEXT_SIZE;
}

static struct maildrop *maildrop;
static int files[MAILDROP_FILES];

static char folder[] = "/tmp/poplar-budget-XXXXXX";

static void remove_files(void)
{
    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        char path[80];
        snprintf(path, sizeof path, "%s/%s", folder, maildrop_file_names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static int make_file(enum maildrop_file file, int number)
{
    size_t size = file == MAILDROP_DB ? maildrop_template_size : 0;
    char path[80];
    snprintf(path, sizeof path, "%s/%s", folder, maildrop_file_names[file]);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, maildrop_template, size) != (ssize_t)size || dup2(fd, number) != number)
        exit(EX_OSERR);
    close(fd);
    return number;
}

static ssize_t read_letter(void *context, void *buffer, size_t size)
{
    static const char letter[] = "Subject: a letter\r\n\r\nbody\r\n";
    bool *told = context;
    if (*told || size < sizeof letter)
        return 0;
    *told = true;
    memcpy(buffer, letter, sizeof letter - 1);
    return sizeof letter - 1;
}

static void fill(void)
{
    for (int i = 0; i < MESSAGES; i++) {
        bool told = false;
        if (maildrop_deliver(maildrop, &(struct maildrop_delivery){0}, read_letter, &told, NULL) !=
            STORE_OK)
            exit(EX_SOFTWARE);
    }
}

/* The messages of a session, a thousand of them. */
static bool list(void)
{
    struct maildrop_totals totals;
    struct maildrop_snapshot *snapshot;
    return maildrop_totals(maildrop, &totals) == STORE_OK && totals.messages == MESSAGES &&
           maildrop_snapshot(maildrop, &totals, &snapshot) == STORE_OK;
}

/* The store's part of a login, as a worker has it from its nursery. */
static bool log_in(void)
{
    struct maildrop_totals totals;
    return maildrop_open(files, &maildrop) == STORE_OK &&
           maildrop_totals(maildrop, &totals) == STORE_OK;
}

static void grant(bool warm)
{
    if (maildrop_library_init(true) != STORE_OK ||
        (warm && maildrop_library_warm(maildrop_template, maildrop_template_size, MAILDROP_SESSIONS,
                                       GRANT_FD + MAILDROP_DB) != STORE_OK))
        exit(EX_SOFTWARE);
    if (!mkdtemp(folder))
        exit(EX_CANTCREAT);
    atexit(remove_files);
    for (unsigned i = 0; i < MAILDROP_FILES; i++)
        files[i] = make_file(i, GRANT_FD + (int)i);
}

static void set_up_listing(void)
{
    grant(false);
    if (!log_in())
        exit(EX_SOFTWARE);
    fill();
}

static void set_up_login(void)
{
    grant(true);
}

static void set_up_nothing(void)
{
}

static const struct {
    const char *name;
    void (*set_up)(void);
    bool (*work)(void);
} parts[] = {
    {"parser", set_up_nothing, parse},
    {"stuffing", make_text, stuff},
    {"listing", set_up_listing, list},
    {"login", set_up_login, log_in},
};

bool budget_work(bool (*work)(void));

__attribute__((noinline)) bool budget_work(bool (*work)(void))
{
    return work();
}

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < ARRAY_SIZE(parts); i++)
        if (strcmp(argv[1], parts[i].name) == 0) {
            parts[i].set_up();
            return budget_work(parts[i].work) ? EX_OK : EX_SOFTWARE;
        }
    fprintf(stderr, "usage: budget parser|stuffing|listing|login\n");
    return EX_USAGE;
}
