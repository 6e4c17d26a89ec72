/*
 * text.c - the texts of replies. Data; runs in a worker.
 */
#include "worker/text.h"
#include "daemon/base.h"

#include <string.h>
#include <strings.h>

/* fetchmail and Claws Mail look for "wait" or "lock" in what a login meets: without, what will
 * pass is a wrong password to them, and they stop asking, or ask their user. */
static const char *const english[TEXTS] = {
    [TEXT_READY] = "ready",
    [TEXT_TOO_MANY_SESSIONS] = "too many connections, wait and try again",
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
    [TEXT_AUTH_MECHANISMS] = "mechanisms follow",
    [TEXT_AUTH_UNKNOWN] = "no such mechanism here",
    [TEXT_AUTH_NO_CERTIFICATE] = "no certificate came with TLS that names a user here",
    [TEXT_AUTH_CANCELLED] = "cancelled",
    [TEXT_AUTH_MALFORMED] = "this is not what the mechanism says, in base64",
    [TEXT_AUTH_FOREIGN] = "users act for themselves only",
    [TEXT_AUTH_NO_TOKEN] = "a token is needed",
    [TEXT_LOGGED_IN] = "logged in",
    [TEXT_LOGIN_DENIED] = "user name or password is wrong",
    [TEXT_LOGIN_EXPIRED] = "the password has expired and must be changed first",
    [TEXT_LOGIN_ACCOUNT] = "this account may not log in now",
    [TEXT_LOGIN_UNAVAILABLE] = "logins cannot be checked at the moment, wait and try again",
    [TEXT_LOGIN_MISCONFIGURED] = "logins are not set up on this server",
    [TEXT_LOGIN_IN_USE] = "another session has locked this maildrop",
    [TEXT_LOGIN_NO_MAILDROP] = "there is no maildrop for this account",
    [TEXT_LOGIN_BUSY] = "too many logins at once, wait and try again",
    [TEXT_LOGIN_THROTTLED] = "too many failed logins, wait and try again",
    [TEXT_LOGIN_TIMEOUT] = "logging in took too long",
    [TEXT_LOGIN_DELAY] = "the last login was only just, wait before the next",
    [TEXT_LOGIN_POP3_OFF] = "POP3 is switched off for this account",
    [TEXT_STORE_TEMP] = "the maildrop cannot be used at the moment, wait and try again",
    [TEXT_STORE_PERM] = "the maildrop cannot be used, tell the administrator",
    [TEXT_NOT_DELETED] = "the messages could not be deleted, all are still there",
    [TEXT_MESSAGES] = "messages",
    [TEXT_OCTETS] = "octets",
    [TEXT_TOP_FOLLOWS] = "top of message follows",
    [TEXT_DELETED] = "message deleted",
    [TEXT_RESET] = "no message is marked as deleted",
    [TEXT_NOTHING_DONE] = "nothing done",
    [TEXT_NO_SUCH_MESSAGE] = "no such message",
    [TEXT_UTF8_ON] = "UTF-8 is in use",
    [TEXT_UTF8_TOO_LATE] = "too late: sizes were told already, send UTF8 before logging in",
    [TEXT_UTF8_ONLY] = "this message can be had after UTF8 only",
    [TEXT_LANGUAGES_FOLLOW] = "languages follow",
    [TEXT_LANGUAGE_CHOSEN] = "texts are in English",
    [TEXT_LANGUAGE_UNKNOWN] = "this language is not available here",
    [TEXT_BYE] = "goodbye",
    [TEXT_UNKNOWN_COMMAND] = "unknown command",
    [TEXT_NOT_BEFORE_LOGIN] = "log in first",
    [TEXT_NOT_AFTER_LOGIN] = "not after login",
    [TEXT_ARGUMENTS] = "wrong arguments",
    [TEXT_MALFORMED] = "a command is UTF-8 text without control characters",
    [TEXT_LINE_TOO_LONG] = "line too long",
    [TEXT_TOO_MANY_BAD] = "too many bad commands",
    [TEXT_TOO_MANY_COMMANDS] = "too many commands without a login",
};

static const char *const french[TEXTS] = {
    [TEXT_READY] = "prêt",
    [TEXT_TOO_MANY_SESSIONS] = "trop de connexions, réessayez plus tard",
    [TEXT_CAPABILITIES] = "voici les capacités",
    [TEXT_TLS_BEGINS] = "commencez TLS maintenant",
    [TEXT_TLS_ALREADY] = "TLS est déjà actif",
    [TEXT_TLS_NOT_HERE] = "TLS n'est pas disponible ici",
    [TEXT_TLS_FIRST] = "la connexion exige TLS : envoyez d'abord STLS",
    [TEXT_TLS_ON_CLEAR_PORT] =
        "ce port commence en clair : envoyez STLS, ou utilisez le port réservé à TLS",
    [TEXT_NAME_ACCEPTED] = "le mot de passe, s'il vous plaît",
    [TEXT_NAME_UNFIT] = "ceci ne peut pas être un nom d'utilisateur",
    [TEXT_NAME_FIRST] = "envoyez d'abord USER",
    [TEXT_PASSWORD_EMPTY] = "le mot de passe est vide",
    [TEXT_PASSWORD_UNFIT] = "ceci ne peut pas être un mot de passe",
    [TEXT_AUTH_MECHANISMS] = "voici les mécanismes",
    [TEXT_AUTH_UNKNOWN] = "ce mécanisme n'est pas disponible ici",
    [TEXT_AUTH_NO_CERTIFICATE] =
        "aucun certificat présenté avec TLS ne désigne un utilisateur d'ici",
    [TEXT_AUTH_CANCELLED] = "abandonné",
    [TEXT_AUTH_MALFORMED] = "ceci n'est pas ce que dit le mécanisme, en base64",
    [TEXT_AUTH_FOREIGN] = "un utilisateur n'agit que pour lui-même",
    [TEXT_AUTH_NO_TOKEN] = "il faut un jeton",
    [TEXT_LOGGED_IN] = "vous êtes connecté",
    [TEXT_LOGIN_DENIED] = "nom d'utilisateur ou mot de passe incorrect",
    [TEXT_LOGIN_EXPIRED] = "le mot de passe a expiré et doit d'abord être changé",
    [TEXT_LOGIN_ACCOUNT] = "ce compte ne peut pas se connecter en ce moment",
    [TEXT_LOGIN_UNAVAILABLE] =
        "les connexions ne peuvent pas être vérifiées en ce moment, réessayez plus tard",
    [TEXT_LOGIN_MISCONFIGURED] = "les connexions ne sont pas configurées sur ce serveur",
    [TEXT_LOGIN_IN_USE] = "une autre session occupe cette boîte",
    [TEXT_LOGIN_NO_MAILDROP] = "il n'y a pas de boîte pour ce compte",
    [TEXT_LOGIN_BUSY] = "trop de connexions à la fois, réessayez plus tard",
    [TEXT_LOGIN_THROTTLED] = "trop d'échecs de connexion, réessayez plus tard",
    [TEXT_LOGIN_TIMEOUT] = "la connexion a pris trop de temps",
    [TEXT_LOGIN_DELAY] = "la dernière connexion est trop récente, attendez avant la suivante",
    [TEXT_LOGIN_POP3_OFF] = "POP3 est désactivé pour ce compte",
    [TEXT_STORE_TEMP] = "la boîte est inutilisable en ce moment, réessayez plus tard",
    [TEXT_STORE_PERM] = "la boîte est inutilisable, prévenez l'administrateur",
    [TEXT_NOT_DELETED] = "les messages n'ont pas pu être supprimés, tous sont encore là",
    [TEXT_MESSAGES] = "messages",
    [TEXT_OCTETS] = "octets",
    [TEXT_TOP_FOLLOWS] = "voici le début du message",
    [TEXT_DELETED] = "message supprimé",
    [TEXT_RESET] = "aucun message n'est marqué comme supprimé",
    [TEXT_NOTHING_DONE] = "rien n'a été fait",
    [TEXT_NO_SUCH_MESSAGE] = "ce message n'existe pas",
    [TEXT_UTF8_ON] = "UTF-8 est actif",
    [TEXT_UTF8_TOO_LATE] =
        "trop tard : des tailles ont déjà été annoncées, envoyez UTF8 avant la connexion",
    [TEXT_UTF8_ONLY] = "ce message ne peut être lu qu'après UTF8",
    [TEXT_LANGUAGES_FOLLOW] = "voici les langues",
    [TEXT_LANGUAGE_CHOSEN] = "les textes sont en français",
    [TEXT_LANGUAGE_UNKNOWN] = "cette langue n'est pas disponible ici",
    [TEXT_BYE] = "au revoir",
    [TEXT_UNKNOWN_COMMAND] = "commande inconnue",
    [TEXT_NOT_BEFORE_LOGIN] = "connectez-vous d'abord",
    [TEXT_NOT_AFTER_LOGIN] = "impossible après la connexion",
    [TEXT_ARGUMENTS] = "arguments incorrects",
    [TEXT_MALFORMED] = "une commande est un texte UTF-8 sans caractères de contrôle",
    [TEXT_LINE_TOO_LONG] = "ligne trop longue",
    [TEXT_TOO_MANY_BAD] = "trop de commandes incorrectes",
    [TEXT_TOO_MANY_COMMANDS] = "trop de commandes sans connexion",
};

static const struct {
    const char *tag, *name;
    const char *const *texts;
} languages[TEXT_LANGUAGES] = {
    [TEXT_ENGLISH] = {"en", "English", english},
    [TEXT_FRENCH] = {"fr", "Français", french},
};

const char *text_get(enum text_language language, enum text text)
{
    if ((unsigned)language >= TEXT_LANGUAGES || (unsigned)text >= TEXTS ||
        !languages[language].texts[text])
        bug("a text is missing");
    return languages[language].texts[text];
}

const char *text_tag(enum text_language language)
{
    return languages[language].tag;
}

const char *text_name(enum text_language language)
{
    return languages[language].name;
}

/* A range is shortened at its hyphens until a tag is left; ours have no subtags. */
bool text_find_language(const char *range, enum text_language *language)
{
    const size_t size = strcspn(range, "-");
    for (int i = 0; i < TEXT_LANGUAGES; i++) {
        if (strlen(languages[i].tag) == size && strncasecmp(languages[i].tag, range, size) == 0) {
            *language = (enum text_language)i;
            return true;
        }
    }
    return false;
}

/* What stands for a letter with an accent. A test holds the tables against this. */
static const struct {
    const char *letter, *plain;
} folds[] = {
    {"à", "a"}, {"â", "a"}, {"ç", "c"}, {"è", "e"}, {"é", "e"},  {"ê", "e"}, {"ë", "e"}, {"î", "i"},
    {"ï", "i"}, {"ô", "o"}, {"ù", "u"}, {"û", "u"}, {"œ", "oe"}, {"À", "A"}, {"É", "E"},
};

const char *text_fold(const char *text, char *to)
{
    size_t put = 0;
    while (*text) {
        const char *plain = (char[]){*text, '\0'};
        size_t taken = 1;
        for (size_t i = 0; i < ARRAY_SIZE(folds) && (unsigned char)*text >= 0x80; i++) {
            if (strncmp(text, folds[i].letter, strlen(folds[i].letter)) == 0) {
                plain = folds[i].plain;
                taken = strlen(folds[i].letter);
            }
        }
        while (*plain)
            to[put++] = *plain++;
        text += taken;
    }
    to[put] = '\0';
    return to;
}
