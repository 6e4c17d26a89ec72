/*
 * pam_poplar_test.c - a PAM module that misbehaves as its arguments say. For tests only; runs in
 * whatever process loads it. Each argument is done in turn, in the authentication phase:
 *
 *   hang  slow=MS  crash  exit  eat  stdout    what it says
 *   until=FILE                                 waits for FILE to be there
 *   leak  ids  umask  chdir  close=FD  signal  leaves the process changed
 *   alarm  child  thread
 *   stay=FILE                                  forks what holds all that is open until it is
 *                                              killed, and writes its number into FILE
 *   helper=FILE                                runs a program, which writes into FILE what is open
 *                                              in it
 *   rename=USER                                sets PAM_USER
 *   items=FILE                                 writes what the application told PAM into FILE
 *   begun=FILE                                 adds PAM_RHOST to FILE
 *   expect=PASSWORD                            asks for a password, fails if it is another one
 *                                              (~ means TAB: libpam makes blanks of those)
 *   conv=none|many|binary|null|text|echo|error|mixed|prompt
 *                                              a conversation (none: 0 messages, many: 33)
 *
 * then it succeeds. In the account and session phases it succeeds, or with arguments session=FILE,
 * session-fail, account-prompt does that.
 */
#include <fcntl.h>
#include <pthread.h>
#include <security/pam_appl.h>
#include <security/pam_ext.h>
#include <security/pam_modules.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The value of NAME=VALUE; NULL if the argument is another. */
static const char *value_of(const char *argument, const char *name)
{
    size_t length = strlen(name);
    return strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1
                                                                           : NULL;
}

static const char *item(pam_handle_t *handle, int type)
{
    const void *value = NULL;
    pam_get_item(handle, type, &value);
    return value ? value : "";
}

static int write_items(pam_handle_t *handle, const char *path)
{
    FILE *file = fopen(path, "we");
    if (!file)
        return PAM_SYSTEM_ERR;
    fprintf(file, "service=%s user=%s rhost=%s tty=%s ruser=%s\n", item(handle, PAM_SERVICE),
            item(handle, PAM_USER), item(handle, PAM_RHOST), item(handle, PAM_TTY),
            item(handle, PAM_RUSER));
    fclose(file);
    return PAM_SUCCESS;
}

/* A line at a time, whoever else writes there. */
static int add_source(pam_handle_t *handle, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    bool good = fd >= 0 && dprintf(fd, "%s\n", item(handle, PAM_RHOST)) > 0;
    if (fd >= 0)
        close(fd);
    return good ? PAM_SUCCESS : PAM_SYSTEM_ERR;
}

/* One prompt and `n` - 1 more like it. Who asks for more than one secret at once wants a new one,
 * or a second factor: these must stay empty. */
static int converse(pam_handle_t *handle, int n, int style, const char *text)
{
    enum { MANY = 40 };
    const struct pam_conv *conversation = NULL;
    const void *found = NULL;
    struct pam_message message = {style, text};
    const struct pam_message *messages[MANY];
    struct pam_response *replies = NULL;
    for (int i = 0; i < MANY; i++)
        messages[i] = &message;
    int status = pam_get_item(handle, PAM_CONV, &found);
    conversation = found;
    if (status == PAM_SUCCESS)
        status = conversation->conv(n, messages, &replies, conversation->appdata_ptr);
    bool repeated = false;
    for (int i = 0; status == PAM_SUCCESS && replies && i < n; i++) {
        const char *reply = replies[i].resp ? replies[i].resp : "";
        repeated |= style == PAM_PROMPT_ECHO_OFF && (i == 0 ? !*reply : *reply != '\0');
        if (replies[i].resp)
            explicit_bzero(replies[i].resp, strlen(replies[i].resp));
        free(replies[i].resp);
    }
    free(replies);
    return repeated ? PAM_AUTH_ERR : status;
}

static int expect_password(pam_handle_t *handle, const char *wanted)
{
    const char *given = NULL;
    int status = pam_get_authtok(handle, PAM_AUTHTOK, &given, NULL);
    if (status != PAM_SUCCESS)
        return status;
    while (*given && *given == (*wanted == '~' ? '\t' : *wanted)) {
        given++;
        wanted++;
    }
    return *given == *wanted ? PAM_SUCCESS : PAM_AUTH_ERR;
}

/* A password, and then what no mail client could answer: the answer already given is not left. */
static int converse_mixed(pam_handle_t *handle)
{
    const struct pam_conv *conversation = NULL;
    const void *found = NULL;
    const struct pam_message asked[] = {{PAM_PROMPT_ECHO_OFF, "Password: "},
                                        {PAM_TEXT_INFO, "and"},
                                        {PAM_BINARY_PROMPT, "\0\0\0\005\0"}};
    const struct pam_message *messages[] = {&asked[0], &asked[1], &asked[2]};
    struct pam_response *replies = NULL;
    int status = pam_get_item(handle, PAM_CONV, &found);
    conversation = found;
    if (status == PAM_SUCCESS)
        status = conversation->conv(3, messages, &replies, conversation->appdata_ptr);
    return status == PAM_CONV_ERR ? PAM_AUTH_ERR : PAM_SUCCESS;
}

static int start_conversation(pam_handle_t *handle, const char *kind)
{
    if (strcmp(kind, "none") == 0)
        return converse(handle, 0, PAM_PROMPT_ECHO_OFF, "Password: ");
    if (strcmp(kind, "many") == 0)
        return converse(handle, 33, PAM_PROMPT_ECHO_OFF, "Password: ");
    if (strcmp(kind, "binary") == 0)
        return converse(handle, 1, PAM_BINARY_PROMPT, "\0\0\0\005\0");
    if (strcmp(kind, "null") == 0)
        return converse(handle, 1, PAM_TEXT_INFO, NULL);
    if (strcmp(kind, "text") == 0)
        return converse(handle, 2, PAM_TEXT_INFO, "Your cat\nis on fire");
    if (strcmp(kind, "echo") == 0)
        return converse(handle, 1, PAM_PROMPT_ECHO_ON, "login: ");
    if (strcmp(kind, "error") == 0)
        return converse(handle, 1, PAM_ERROR_MSG, "no such thing");
    if (strcmp(kind, "mixed") == 0)
        return converse_mixed(handle);
    return converse(handle, 32, PAM_PROMPT_ECHO_OFF, "Password: ");
}

static void ignore(int signal)
{
    (void)signal;
}

static void *sleep_for_ever(void *nothing)
{
    for (;;)
        pause();
    return nothing;
}

static int change_process(const char *argument)
{
    const char *number = value_of(argument, "close");
    if (number)
        return close(atoi(number)) == 0 ? PAM_SUCCESS : PAM_SYSTEM_ERR;
    if (strcmp(argument, "leak") == 0)
        return open("/dev/null", O_RDONLY) >= 0 ? PAM_SUCCESS : PAM_SYSTEM_ERR;
    if (strcmp(argument, "ids") == 0)
        return seteuid(65534) == 0 ? PAM_SUCCESS : PAM_SYSTEM_ERR;
    if (strcmp(argument, "chdir") == 0)
        return chdir("/usr") == 0 ? PAM_SUCCESS : PAM_SYSTEM_ERR;
    if (strcmp(argument, "umask") == 0)
        umask(0);
    if (strcmp(argument, "signal") == 0)
        signal(SIGUSR1, ignore);
    if (strcmp(argument, "alarm") == 0)
        alarm(1);
    if (strcmp(argument, "thread") == 0)
        return pthread_create(&(pthread_t){0}, NULL, sleep_for_ever, NULL) == 0 ? PAM_SUCCESS
                                                                                : PAM_SYSTEM_ERR;
    if (strcmp(argument, "child") == 0 && fork() == 0)
        _exit(0);
    return PAM_SUCCESS;
}

/* As a daemon that a module starts: no child of this process when it returns. */
static int stay(const char *path)
{
    FILE *file = fopen(path, "we");
    pid_t child = file ? fork() : -1;
    if (child == 0) {
        child = fork();
        if (child == 0)
            for (;;)
                pause();
        fprintf(file, "%d", (int)child);
        fflush(file);
        _exit(0);
    }
    if (child > 0)
        waitpid(child, NULL, 0);
    if (file)
        fclose(file);
    return child > 0 ? PAM_SUCCESS : PAM_SYSTEM_ERR;
}

static int run_helper(const char *path)
{
    char command[300];
    snprintf(command, sizeof command, "ls -l /proc/$$/fd >'%s'", path);
    return system(command) == 0 ? PAM_SUCCESS : PAM_SYSTEM_ERR;
}

static void eat(void)
{
    enum { BITE = 1 << 20 };
    for (;;) {
        char *bite = malloc(BITE);
        if (bite)
            memset(bite, 1, BITE);
    }
}

static int misbehave(pam_handle_t *handle, const char *argument)
{
    const char *value;
    if (strcmp(argument, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(argument, "crash") == 0)
        raise(SIGSEGV);
    if (strcmp(argument, "exit") == 0)
        exit(0);
    if (strcmp(argument, "eat") == 0)
        eat();
    if (strcmp(argument, "stdout") == 0) {
        if (write(STDOUT_FILENO, "+OK from a module\r\n", 19) < 0)
            return PAM_SYSTEM_ERR;
        return write(STDERR_FILENO, "", 0) < 0 ? PAM_SYSTEM_ERR : PAM_SUCCESS;
    }
    if ((value = value_of(argument, "slow")))
        usleep((useconds_t)atoi(value) * 1000);
    if ((value = value_of(argument, "until")))
        while (access(value, F_OK) < 0)
            usleep(10000);
    if ((value = value_of(argument, "rename")))
        return pam_set_item(handle, PAM_USER, value);
    if ((value = value_of(argument, "items")))
        return write_items(handle, value);
    if ((value = value_of(argument, "begun")))
        return add_source(handle, value);
    if ((value = value_of(argument, "expect")))
        return expect_password(handle, value);
    if ((value = value_of(argument, "conv")))
        return start_conversation(handle, value);
    if ((value = value_of(argument, "stay")))
        return stay(value);
    if ((value = value_of(argument, "helper")))
        return run_helper(value);
    return change_process(argument);
}

int pam_sm_authenticate(pam_handle_t *handle, int flags, int argc, const char **argv)
{
    (void)flags;
    for (int i = 0; i < argc; i++) {
        int status = misbehave(handle, argv[i]);
        if (status != PAM_SUCCESS)
            return status;
    }
    return PAM_SUCCESS;
}

int pam_sm_setcred(pam_handle_t *handle, int flags, int argc, const char **argv)
{
    (void)handle, (void)flags, (void)argc, (void)argv;
    return PAM_SUCCESS;
}

int pam_sm_acct_mgmt(pam_handle_t *handle, int flags, int argc, const char **argv)
{
    (void)flags;
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "account-prompt") == 0)
            return converse(handle, 1, PAM_PROMPT_ECHO_OFF, "New password: ");
    return PAM_SUCCESS;
}

/* Appends the process and whether it is the one that authenticates (it should not be). */
int pam_sm_open_session(pam_handle_t *handle, int flags, int argc, const char **argv)
{
    (void)handle, (void)flags;
    for (int i = 0; i < argc; i++) {
        const char *path = value_of(argv[i], "session");
        if (strcmp(argv[i], "session-fail") == 0)
            return PAM_SESSION_ERR;
        FILE *file = path ? fopen(path, "we") : NULL;
        if (file) {
            fprintf(file, "%d", (int)getpid());
            fclose(file);
        }
        umask(0);
    }
    return PAM_SUCCESS;
}

int pam_sm_close_session(pam_handle_t *handle, int flags, int argc, const char **argv)
{
    (void)handle, (void)flags, (void)argc, (void)argv;
    return PAM_SUCCESS;
}
