/*
 * ctl_remove.h - taking a maildrop's directory out of the world.
 */
#ifndef POPLAR_STORE_CTL_REMOVE_H
#define POPLAR_STORE_CTL_REMOVE_H

#include "store/ctl.h"

/* Remove the directories that a deletion or a creation left behind when it was cut short. */
void ctl_remove_leftovers(const struct ctl *ctl);

#endif
