// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The leader sleeps while the checkpoint is made, and a signal wakes it afterwards: at once, and with what was left of
 * its time.
 */
#include "victim.h"

#define SECONDS 60
/* So long it has slept at least when the checkpoint begins. */
#define BEFORE_MS 1200
/* Less than that: what is left may not be counted from the beginning. */
#define LEEWAY_MS 1100

static pid_t leader;
static int handled;
/* How long the process stood still: that time does not count as slept. */
static long stood_still;

static void handler(int sig)
{
	(void)sig;
	handled++;
}

static long ms(const struct timespec *t)
{
	return t->tv_sec * 1000l + t->tv_nsec / 1000000;
}

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return ms(&t);
}

static void wake(int index)
{
	char path[PATH_MAX];
	long before;

	(void)index;
	victim_settle(-1);
	/* The leader goes to sleep meanwhile. */
	k_sleep_ms(BEFORE_MS + 100);
	victim_write_file("ready", "");
	victim_path(path, "go");
	before = now();
	while (access(path, F_OK)) {
		long after;

		k_sleep_ms(5);
		after = now();
		if (after - before > 50)
			stood_still += after - before;
		before = after;
	}
	k_tgkill(leader, SIGUSR1);
}

int main(int argc, char **argv)
{
	struct timespec time = { .tv_sec = SECONDS }, left = { 0 }, begun, ended;
	struct k_sigaction action = { .handler = (unsigned long)handler, .flags = K_SA_RESTORER };
	long result, slept;
	int err;

	victim_begin(argc, argv);
	action.restorer = victim_restorer(action.flags);
	k_sigaction(SIGUSR1, &action, NULL);
	leader = k_gettid();
	victim_thread(wake, 0);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	result = syscall(SYS_nanosleep, &time, &left);
	err = errno;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	slept = ms(&ended) - ms(&begun);
	expect_int(-1, result, "nanosleep");
	expect_int(EINTR, err, "its errno");
	expect_int(1, handled, "runs of the handler");
	if (slept + ms(&left) < SECONDS * 1000 - 2 || slept + ms(&left) > SECONDS * 1000 + stood_still + LEEWAY_MS) {
		char got[64];

		snprintf(got, sizeof(got), "%ld ms and %ld ms", slept, ms(&left));
		victim_fail("time that it has slept, and what was left", "a minute together", got);
	}
	return victim_end();
}
