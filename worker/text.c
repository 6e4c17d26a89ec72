/*
 * text.c - the texts of replies. Data; runs in a worker.
 */
#include "worker/text.h"
#include "daemon/base.h"

static const char *const texts[TEXTS] = {
    [TEXT_READY] = "ready",
    [TEXT_CAPABILITIES] = "capabilities follow",
    [TEXT_TLS_BEGINS] = "begin TLS now",
    [TEXT_TLS_ALREADY] = "TLS is in use already",
    [TEXT_TLS_NOT_HERE] = "TLS is not available here",
    [TEXT_TLS_FIRST] = "logging in needs TLS: send STLS first",
    [TEXT_TLS_ON_CLEAR_PORT] = "this port begins in the clear: send STLS, or use the TLS port",
    [TEXT_NAME_ACCEPTED] = "now the password",
    [TEXT_NAME_UNFIT] = "this cannot be a user name",
    [TEXT_NAME_FIRST] = "send USER first",
    [TEXT_PASSWORD_EMPTY] = "the password is empty",
    [TEXT_PASSWORD_UNFIT] = "this cannot be a password",
    [TEXT_LOGGED_IN] = "logged in",
    [TEXT_LOGIN_DENIED] = "user name or password is wrong",
    [TEXT_LOGIN_EXPIRED] = "the password has expired and must be changed first",
    [TEXT_LOGIN_ACCOUNT] = "this account may not log in now",
    [TEXT_LOGIN_UNAVAILABLE] = "logins cannot be checked at the moment, try again later",
    [TEXT_LOGIN_MISCONFIGURED] = "logins are not set up on this server",
    [TEXT_LOGIN_IN_USE] = "another session holds this maildrop",
    [TEXT_LOGIN_NO_MAILDROP] = "there is no maildrop for this account",
    [TEXT_LOGIN_BUSY] = "too many logins at once, try again later",
    [TEXT_LOGIN_THROTTLED] = "too many failed logins, try again later",
    [TEXT_LOGIN_TIMEOUT] = "logging in took too long",
    [TEXT_STORE_TEMP] = "the maildrop cannot be used at the moment, try again later",
    [TEXT_STORE_PERM] = "the maildrop cannot be used, tell the administrator",
    [TEXT_NOT_DELETED] = "the messages could not be deleted, all are still there",
    [TEXT_MESSAGES] = "messages",
    [TEXT_OCTETS] = "octets",
    [TEXT_TOP_FOLLOWS] = "top of message follows",
    [TEXT_UIDLS_FOLLOW] = "unique-ids follow",
    [TEXT_DELETED] = "message deleted",
    [TEXT_RESET] = "no message is marked as deleted",
    [TEXT_NOTHING_DONE] = "nothing done",
    [TEXT_NO_SUCH_MESSAGE] = "no such message",
    [TEXT_BYE] = "goodbye",
    [TEXT_UNKNOWN_COMMAND] = "unknown command",
    [TEXT_NOT_BEFORE_LOGIN] = "log in first",
    [TEXT_NOT_AFTER_LOGIN] = "not after login",
    [TEXT_ARGUMENTS] = "wrong arguments",
    [TEXT_MALFORMED] = "a command is UTF-8 text without control characters",
    [TEXT_LINE_TOO_LONG] = "line too long",
    [TEXT_TOO_MANY_BAD] = "too many bad commands",
};

const char *text_get(enum text text)
{
    if ((unsigned)text >= TEXTS || !texts[text])
        bug("a text is missing");
    return texts[text];
}
