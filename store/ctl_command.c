/*
 * ctl_command.c - the tables of poplarctl's commands and options, and the parser that runs over
 * them. Runs in poplarctl with the caller's privilege; touches nothing but its arguments.
 */
#include "store/ctl_command.h"

#include <string.h>
#include <sysexits.h>

enum {
    ANY = 1 << 20, /* more arguments than a command line can hold */
    WORD_MAX = 40, /* octets compared when looking for the nearest word */
    COMMAND_OPTIONS = CTL_DRY_RUN | CTL_FORMAT | CTL_NO_LIMITS | CTL_CRLF | CTL_YES | CTL_ALL |
                      CTL_UIDL | CTL_UIDL_TEMPLATE | CTL_UIDL_CAPTURE | CTL_DELETED |
                      CTL_DELETE_GONE | CTL_LISTED_ONLY,
    IMPORT_OPTIONS = CTL_DRY_RUN | CTL_FORMAT | CTL_NO_LIMITS | CTL_ALL | CTL_UIDL |
                     CTL_UIDL_TEMPLATE | CTL_UIDL_CAPTURE | CTL_DELETE_GONE | CTL_LISTED_ONLY
};

static const struct ctl_command commands[] = {
    {"status", "", 0, 0, 0, NEEDS_CONFIG, ctl_status, "Show what the running server does",
     "Also how many days each certificate has left, and whose logins are throttled.\n"},
    {"sessions", "", 0, 0, 0, NEEDS_CONFIG, ctl_sessions, "List the sessions of the running server",
     NULL},
    {"kick", "USER|SESSION...", 1, ANY, 0, NEEDS_CONFIG, ctl_kick,
     "End sessions, by their number or all of a user",
     "A session that is logged in ends before its next command, deletions are not done; if that\n"
     "takes longer than a second it is killed. Waits until they are gone.\n"},
    {"metrics", "", 0, 0, 0, NEEDS_CONFIG, ctl_metrics,
     "Print the server's numbers as OpenMetrics text", NULL},
    {"reload", "", 0, 0, 0, NEEDS_CONFIG, ctl_reload,
     "Read the configuration again, wait for the outcome",
     "A configuration or certificate that is refused changes nothing: the old one stays, and\n"
     "the reason is printed.\n"},
    {"debug", "USER on|off", 2, 2, 0, NEEDS_CONFIG, ctl_debug,
     "Write what one user's sessions say to the server's log, or stop it",
     "Commands and the first lines of their replies, from login on; passwords are masked. Lasts\n"
     "until it is switched off or the server ends.\n"},
    {"user", "USER", 1, 1, 0, NEEDS_CONFIG, ctl_user,
     "Show how a name maps to a user and a maildrop, and its limits", NULL},
    {"import", "USER PATH...", 2, ANY, IMPORT_OPTIONS, NEEDS_MAILDROPS, ctl_import,
     "Add messages from an mbox, a Maildir, a Cyrus mailbox or message files",
     "UIDLs are kept as the old server had them, so that no client downloads twice: from\n"
     "dovecot-uidlist, courierpop3dsizelist, cyrus.index, X-UIDL or X-UID headers in an mbox, or "
     "a\n"
     "capture of the old account (--uidl-list). Importing again adds only what is new.\n"
     "--all DIR takes DIR/USER, DIR/USER/Maildir and DIR/DOMAIN/USER: see poplarctl(8).\n"},
    {"export", "USER DIR", 2, 2, CTL_CRLF | CTL_FORMAT, NEEDS_MAILDROPS, ctl_export,
     "Write all messages into a Maildir, or an mbox",
     "DIR is made if it is not there. In an existing Maildir the messages are added. With\n"
     "--format=mbox the second argument is a file, which must not be there yet.\n"},
    {"expire", "[USER...]", 0, ANY, 0, NEEDS_MAILDROPS, ctl_expire,
     "Delete what is past expire_after, and remove what is past undelete_for",
     "Without USER: in all maildrops. Those in use are passed over until the next time.\n"},
    {"mailbox list", "", 0, 0, 0, NEEDS_MAILDROPS, ctl_mailbox_list, "List all maildrops", NULL},
    {"mailbox show", "USER", 1, 1, 0, NEEDS_MAILDROPS, ctl_mailbox_show,
     "Show what a maildrop holds", NULL},
    {"mailbox create", "USER", 1, 1, 0, NEEDS_MAILDROPS, ctl_mailbox_create,
     "Make an empty maildrop", NULL},
    {"mailbox delete", "USER", 1, 1, CTL_YES, NEEDS_MAILDROPS, ctl_mailbox_delete,
     "Delete a maildrop with all its mail", "Without --yes it asks on a terminal.\n"},
    {"mailbox set", "USER KEY=VALUE...", 2, ANY, 0, NEEDS_MAILDROPS, ctl_mailbox_set,
     "Give a maildrop limits of its own, or switch POP3 off for it",
     "KEY is quota_octets or quota_messages. 0 is no limit; an empty value goes back to that of\n"
     "the configuration. pop3=off refuses logins from now on; mail still comes in.\n"},
    {"mailbox check", "USER", 1, 1, CTL_ALL, NEEDS_MAILDROPS, ctl_mailbox_check,
     "Look for damage; name each", "Reads everything, changes nothing, needs no pause.\n"},
    {"mailbox backup", "USER FILE", 2, 2, CTL_ALL, NEEDS_MAILDROPS, ctl_mailbox_backup,
     "Write a maildrop into a file while it is in use",
     "--all DIR writes DIR/NAME/mail.db for each, except those unchanged since the last time.\n"},
    {"mailbox restore", "USER FILE", 2, 2, CTL_YES | CTL_ALL, NEEDS_MAILDROPS, ctl_mailbox_restore,
     "Put a backup in the place of what a maildrop holds",
     "Mail that came since the backup is lost; without --yes it asks on a terminal. --all DIR\n"
     "takes all that mailbox backup --all wrote there.\n"},
    {"mailbox compact", "USER", 1, 1, CTL_ALL, NEEDS_MAILDROPS, ctl_mailbox_compact,
     "Give unused room in a maildrop's file back to the system", NULL},
    {"mailbox salvage", "USER|FILE DIR", 2, 2, CTL_CRLF, NEEDS_CONFIG, ctl_mailbox_salvage,
     "Write all that can be read of a damaged maildrop into a Maildir",
     "The maildrop stays as it is. Delete it, then import DIR: UIDLs are kept. A name with a "
     "\"/\"\n"
     "in it is a file, or a directory with one: a backup.\n"},
    {"mailbox upgrade", "USER", 1, 1, CTL_ALL, NEEDS_MAILDROPS, ctl_mailbox_upgrade,
     "Bring a maildrop up to this version", "The first login does it too.\n"},
    {"message add", "USER <FILE", 1, 1, CTL_NO_LIMITS, NEEDS_MAILDROPS, ctl_message_add,
     "Add the message on standard input", NULL},
    {"message list", "USER", 1, 1, CTL_DELETED, NEEDS_MAILDROPS, ctl_message_list,
     "List a user's messages", NULL},
    {"message show", "USER ID", 2, 2, CTL_CRLF, NEEDS_MAILDROPS, ctl_message_show,
     "Print a message; --json prints what is known of it", NULL},
    {"message delete", "USER ID...", 2, ANY, 0, NEEDS_MAILDROPS, ctl_message_delete,
     "Delete messages, as a client would", NULL},
    {"message restore", "USER ID...", 2, ANY, 0, NEEDS_MAILDROPS, ctl_message_restore,
     "Make deleted messages visible again", "\"message list --deleted\" shows their ids.\n"},
    {"help", "[COMMAND]", 0, 2, 0, NEEDS_NOTHING, ctl_help, "Explain a command, or list them all",
     NULL},
};

struct option {
    const char *name;
    char letter; /* 0: none */
    enum ctl_option bit;
    const char *argument; /* NULL: takes none */
    const char *summary;
};

static const struct option options[] = {
    {"config", 0, CTL_CONFIG, "FILE", "the configuration [" POPLAR_CONFIG "]"},
    {"json", 0, CTL_JSON, NULL, "print JSON, for programs"},
    {"help", 'h', CTL_HELP, NULL, "explain, and do nothing"},
    {"version", 'V', CTL_VERSION, NULL, "print the version, and do nothing"},
    {"dry-run", 0, CTL_DRY_RUN, NULL, "read everything, add nothing"},
    {"format", 0, CTL_FORMAT, "FORMAT", "mbox or maildir; of import also eml, cyrus"},
    {"no-limits", 0, CTL_NO_LIMITS, NULL, "ignore max_message and the quota"},
    {"crlf", 0, CTL_CRLF, NULL, "keep line ends as CRLF instead of LF"},
    {"yes", 0, CTL_YES, NULL, "do not ask"},
    {"all", 0, CTL_ALL, NULL, "of all users, instead of USER"},
    {"deleted", 0, CTL_DELETED, NULL, "those that can be restored"},
    {"uidl", 0, CTL_UIDL, "KIND", "where UIDLs come from, instead of looking"},
    {"uidl-format", 0, CTL_UIDL_TEMPLATE, "TEXT", "Dovecot's pop3_uidl_format"},
    {"uidl-list", 0, CTL_UIDL_CAPTURE, "FILE", "what the old server says to UIDL and LIST"},
    {"delete-gone", 0, CTL_DELETE_GONE, NULL, "delete what is gone from the old server"},
    {"listed-only", 0, CTL_LISTED_ONLY, NULL, "leave out what the old server has not listed yet"},
};

const struct ctl_command *ctl_command_at(size_t n)
{
    return n < ARRAY_SIZE(commands) ? &commands[n] : NULL;
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Three rows of the usual table of edit distances are enough, also for swapped neighbours. */
unsigned ctl_command_distance(const char *a, const char *b)
{
    unsigned rows[3][WORD_MAX + 1];
    size_t width = strnlen(b, WORD_MAX), height = strnlen(a, WORD_MAX);
    for (size_t x = 0; x <= width; x++)
        rows[0][x] = (unsigned)x;
    for (size_t y = 1; y <= height; y++) {
        unsigned *now = rows[y % 3];
        const unsigned *above = rows[(y + 2) % 3], *two_above = rows[(y + 1) % 3];
        now[0] = (unsigned)y;
        for (size_t x = 1; x <= width; x++) {
            now[x] = least(least(above[x], now[x - 1]) + 1,
                           above[x - 1] + (a[y - 1] == b[x - 1] ? 0 : 1));
            if (x > 1 && y > 1 && a[y - 1] == b[x - 2] && a[y - 2] == b[x - 1])
                now[x] = least(now[x], two_above[x - 2] + 1);
        }
    }
    return rows[height % 3][width];
}

/* Remember `name` if its `candidate` is nearer to `typed` than `best`, and near at all: a
 * suggestion that shares next to nothing with what was typed helps nobody. */
static void consider(const char *typed, const char *candidate, const char *name, const char **best,
                     unsigned *distance)
{
    unsigned d = ctl_command_distance(typed, candidate);
    if (d < *distance && d <= 1 + strlen(candidate) / 3) {
        *distance = d;
        *best = name;
    }
}

/* How many of the words make up the command's name; 0: it is not this command. */
static size_t matches(const struct ctl_command *command, const char *const *words, size_t n)
{
    const char *second = strchr(command->words, ' ');
    if (!second)
        return strcmp(words[0], command->words) == 0;
    size_t length = (size_t)(second - command->words);
    return n >= 2 && strncmp(words[0], command->words, length) == 0 && !words[0][length] &&
                   strcmp(words[1], second + 1) == 0
               ? 2
               : 0;
}

/* The second word of a command whose first is this one; NULL: it is not. */
static const char *member_of(const struct ctl_command *command, const char *word)
{
    size_t length = strlen(word);
    bool same = strncmp(command->words, word, length) == 0 && command->words[length] == ' ';
    return same ? command->words + length + 1 : NULL;
}

bool ctl_command_is_group(const char *word)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (member_of(&commands[i], word))
            return true;
    return false;
}

/* "message" alone, or with a second word that no command has: name those there are. */
static bool is_group(const char *word, char *members, size_t size)
{
    size_t used = 0;
    members[0] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        const char *member = member_of(&commands[i], word);
        if (!member)
            continue;
        int more = snprintf(members + used, size - used, "%s%s", used ? ", " : "", member);
        if (more < 0 || (size_t)more >= size - used)
            break;
        used += (size_t)more;
    }
    return used > 0;
}

static void suggest(const char *const *words, size_t n, char *error, size_t error_size)
{
    char pair[2 * WORD_MAX + 2], members[200];
    const char *best = NULL;
    unsigned distance = WORD_MAX;
    bool group = is_group(words[0], members, sizeof members);
    snprintf(pair, sizeof pair, "%.*s %.*s", WORD_MAX, words[0], WORD_MAX, n > 1 ? words[1] : "");
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        const char *name = commands[i].words, *second = strchr(name, ' ');
        const char *member = member_of(&commands[i], words[0]);
        if (group && member && n > 1)
            consider(words[1], member, name, &best, &distance);
        else if (!group)
            consider(second ? pair : words[0], name, name, &best, &distance);
        if (second && strcmp(second + 1, words[0]) == 0) { /* its first word was left out */
            best = name;
            distance = 0;
        }
    }
    if (group && n < 2)
        snprintf(error, error_size, "%s needs one of: %s", words[0], members);
    else if (best)
        snprintf(error, error_size, "no command \"%s\": did you mean \"%s\"?",
                 distance > 0 && (strchr(best, ' ') || group) ? pair : words[0], best);
    else if (group)
        snprintf(error, error_size, "no command \"%s\": %s takes one of: %s", pair, words[0],
                 members);
    else
        snprintf(error, error_size, "no command \"%.*s\": poplarctl --help lists them", WORD_MAX,
                 words[0]);
}

const struct ctl_command *ctl_command_find(const char *const *words, size_t n_words, size_t *used,
                                           char *error, size_t error_size)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        size_t n = matches(&commands[i], words, n_words);
        if (n > 0) {
            *used = n;
            return &commands[i];
        }
    }
    suggest(words, n_words, error, error_size);
    return NULL;
}

static const struct option *find_option(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        if (strncmp(options[i].name, name, length) == 0 && !options[i].name[length])
            return &options[i];
    return NULL;
}

static const struct option *find_letter(char letter)
{
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        if (options[i].letter && options[i].letter == letter)
            return &options[i];
    return NULL;
}

static int no_option(const char *word, char *error, size_t error_size)
{
    const char *best = NULL;
    unsigned distance = WORD_MAX;
    const char *name = word + (word[1] == '-' ? 2 : 1);
    for (size_t i = 0; name[0] && name[1] && i < ARRAY_SIZE(options); i++)
        consider(name, options[i].name, options[i].name, &best, &distance);
    if (best)
        snprintf(error, error_size, "no option \"%.*s\": did you mean \"--%s\"?", WORD_MAX, word,
                 best);
    else
        snprintf(error, error_size, "no option \"%.*s\": poplarctl --help lists them", WORD_MAX,
                 word);
    return EX_USAGE;
}

/* Where an option's value goes; NULL: it has none. */
static const char **place_of(struct ctl *ctl, enum ctl_option bit)
{
    switch (bit) {
    case CTL_CONFIG:
        return &ctl->config_file;
    case CTL_FORMAT:
        return &ctl->format;
    case CTL_UIDL:
        return &ctl->uidl;
    case CTL_UIDL_TEMPLATE:
        return &ctl->uidl_format;
    case CTL_UIDL_CAPTURE:
        return &ctl->uidl_list;
    default:
        return NULL;
    }
}

/* One word that begins with '-', and its value, which may be the next word. */
static int take_option(struct ctl *ctl, const char *word, const char *next, bool *took_next,
                       char *error, size_t error_size)
{
    const char *value = NULL;
    const struct option *option;
    if (word[1] == '-') {
        value = strchr(word, '=');
        option = find_option(word + 2, value ? (size_t)(value - word - 2) : strlen(word + 2));
        value = value ? value + 1 : NULL;
    } else
        option = word[2] ? NULL : find_letter(word[1]);
    if (!option)
        return no_option(word, error, error_size);
    if (!option->argument && value) {
        snprintf(error, error_size, "--%s takes no value", option->name);
        return EX_USAGE;
    }
    if (option->argument && !value) {
        value = next;
        *took_next = true;
    }
    if (option->argument && (!value || !*value)) {
        snprintf(error, error_size, "--%s needs a value: --%s %s", option->name, option->name,
                 option->argument);
        return EX_USAGE;
    }
    ctl->options |= option->bit;
    const char **place = place_of(ctl, option->bit);
    if (place)
        *place = value;
    return 0;
}

/* The found command's own rules: its options, the number of its arguments. */
static int check(const struct ctl *ctl, const struct ctl_command *command, char *error,
                 size_t error_size)
{
    unsigned foreign = ctl->options & COMMAND_OPTIONS & ~command->options;
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        if (foreign & options[i].bit) {
            snprintf(error, error_size, "%s takes no --%s: see poplarctl %s --help", command->words,
                     options[i].name, command->words);
            return EX_USAGE;
        }
    size_t all = ctl->options & CTL_ALL ? 1 : 0; /* stands for USER */
    size_t empty = 0;
    while (empty < ctl->n_words && *ctl->words[empty])
        empty++;
    bool whole = empty == ctl->n_words; /* a script's variable that was never set is no name */
    if (ctl->options & CTL_HELP ||
        (whole && ctl->n_words + all >= command->min && ctl->n_words + all <= command->max))
        return 0;
    snprintf(error, error_size, "%susage: poplarctl %s%s%s%s",
             whole ? "" : "an argument is empty; ", command->words,
             command->arguments[0] ? " " : "", command->arguments,
             command->options & CTL_ALL ? ", or --all in the place of USER" : "");
    return EX_USAGE;
}

int ctl_command_parse(struct ctl *ctl, int argc, char **argv, const struct ctl_command **command,
                      char *error, size_t error_size)
{
    bool literal = false;
    ctl->words = base_alloc((size_t)argc * sizeof *ctl->words);
    for (int i = 0; i < argc; i++) {
        bool took_next = false;
        if (literal || argv[i][0] != '-' || !argv[i][1]) {
            ctl->words[ctl->n_words++] = argv[i];
            continue;
        }
        literal = strcmp(argv[i], "--") == 0;
        if (literal)
            continue;
        int status = take_option(ctl, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &took_next, error,
                                 error_size);
        if (status)
            return status;
        i += took_next;
    }
    *command = NULL;
    if (ctl->options & CTL_VERSION || (ctl->n_words == 0 && ctl->options & CTL_HELP))
        return 0;
    if (ctl->n_words == 0) {
        snprintf(error, error_size, "no command: poplarctl --help lists them");
        return EX_USAGE;
    }
    size_t used;
    *command = ctl_command_find(ctl->words, ctl->n_words, &used, error, error_size);
    if (!*command && ctl->options & CTL_HELP && ctl->n_words == 1 &&
        ctl_command_is_group(ctl->words[0]))
        return 0;
    if (!*command)
        return EX_USAGE;
    ctl->n_words -= used;
    memmove(ctl->words, ctl->words + used, ctl->n_words * sizeof *ctl->words);
    return check(ctl, *command, error, error_size);
}

static void help_options(FILE *to, unsigned which)
{
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        char left[40];
        if (!(options[i].bit & which))
            continue;
        snprintf(left, sizeof left, "--%s%s%s", options[i].name, options[i].argument ? " " : "",
                 options[i].argument ? options[i].argument : "");
        fprintf(to, "  %-26s %s\n", left, options[i].summary);
    }
}

void ctl_command_help(FILE *to, const struct ctl_command *command, const char *group)
{
    if (command) {
        fprintf(to, "usage: poplarctl [--config FILE] [--json] %s%s%s%s\n\n%s.\n", command->words,
                command->options ? " [OPTION...]" : "", command->arguments[0] ? " " : "",
                command->arguments, command->summary);
        if (command->help)
            fprintf(to, "\n%s", command->help);
        fputs("\nOptions:\n", to);
        help_options(to, command->options);
        help_options(to, ~(unsigned)COMMAND_OPTIONS);
        return;
    }
    fprintf(to,
            "usage: poplarctl [--config FILE] [--json] %s%sCOMMAND [ARGUMENT...]\n\nCommands:\n",
            group ? group : "", group ? " " : "");
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        char left[40];
        if (group && !member_of(&commands[i], group))
            continue;
        snprintf(left, sizeof left, "%s %s", commands[i].words, commands[i].arguments);
        fprintf(to, "  %-29s %s\n", left, commands[i].summary);
    }
    fputs("\nOptions:\n", to);
    help_options(to, ~(unsigned)COMMAND_OPTIONS);
    fputs("\n\"poplarctl COMMAND --help\" tells more; so does poplarctl(8).\n", to);
}
