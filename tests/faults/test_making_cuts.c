/*
 * test_making_cuts.c - the power goes at any step of the making of a maildrop, as auth does it, and
 * of the first deliveries to it.
 *
 * After each cut the maildrop is there, sound and with what was acknowledged, or it is made anew.
 *
 *     CUT_SEED=n build/tests/test_making_cuts     CUTS=n, LONG=1: as of test_power_cuts.c
 */
#include "tests/faults/cuts.h"
#include "tests/faults/disk.h"
#include "tests/faults/granted.h"
#include "tests/faults/witness.h"
#include "tests/support/place.h"

/* Open the maildrop as auth does, below a state directory; NULL if it may not be made. */
static struct maildrop *open_granted(const char *state_dir, bool create)
{
    struct maildrop *m = NULL;
    char error[600];
    int files[MAILDROP_FILES];
    const enum login_outcome outcome = granted_files(state_dir, create, files, error);

    if (outcome == LOGIN_NO_MAILDROP)
        return NULL;
    if (outcome != LOGIN_OK)
        FAIL("%s", error);
    if (maildrop_open(files, &m) != STORE_OK)
        FAIL("%s", maildrop_error(NULL));
    return m;
}

static void judge_made(const char *state_dir)
{
    static struct witness now;
    const int mark = disk_last_mark(at.step, 0);
    struct maildrop *m = open_granted(state_dir, mark < 2);

    if (!m)
        FAIL("a maildrop with %d messages is gone", mark / 2);
    if (witness_look(m, &now) != STORE_OK)
        FAIL("%s", maildrop_error(m));
    if (now.n != (size_t)mark / 2 && now.n != (size_t)(mark + 1) / 2)
        FAIL("%zu messages after mark %d", now.n, mark);
    if (!witness_check(m) || witness_deliver(m, 1, 100, NULL) != STORE_OK)
        FAIL("not sound: %s", maildrop_error(m));
    maildrop_close(m);
}

static void test_making(void **state)
{
    const unsigned wanted = cuts_wanted() / 8;
    uint64_t random = number_from("CUT_SEED", 1);
    const char *living, *left;
    struct maildrop *m;
    size_t steps;

    (void)state;
    at.seed = random;
    at.life = 0;
    disk_set_seed(random);
    assert_true(place_make("/tmp", 0700));
    living = in_place("living");
    left = in_place("left");
    assert_int_equal(mkdir(living, 0700), 0);
    disk_record(living);
    m = open_granted(living, true);
    for (int i = 0; i < 2; i++) {
        disk_mark(2 * i + 1);
        assert_int_equal(witness_deliver(m, (uint64_t)i, 20000, NULL), STORE_OK);
        disk_mark(2 * i + 2);
    }
    maildrop_close(m);
    steps = disk_stop();
    for (unsigned i = 0; i < wanted; i++) {
        at.cut = disk_random(&random);
        at.step = i <= steps ? i : disk_random(&random) % (steps + 1);
        assert_int_equal(mkdir(left, 0700), 0);
        disk_cut(at.step, at.cut, left);
        judge_made(left);
        remove_tree(left);
    }
    assert_int_equal(place_remove(), 0);
    printf("%u cuts, %zu steps\n", wanted, steps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_making),
    };

    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    disk_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
