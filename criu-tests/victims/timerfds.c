// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * timerfds that have expired and have not been read: the kernel stops one until it is read. One ticks faster than a dump
 * takes, one more slowly; one is not armed, and one has expired for good.
 */
#include "victim.h"

#include <poll.h>
#include <sys/timerfd.h>

#define US 1000

enum { FAST, SLOW, UNARMED, ONCE, TIMERS };

static int fds[TIMERS];

static void set(int fd, long first_us, long interval_us)
{
	struct itimerspec spec = { .it_value = { 0, first_us * US }, .it_interval = { 0, interval_us * US } };

	if (timerfd_settime(fd, 0, &spec, NULL))
		victim_die("timerfd_settime: %m");
}

/* What a read gives, after a wait of three seconds at most. */
static uint64_t ticks(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	uint64_t n = 0;

	for (int i = 0; i < 300 && poll(&poll_fd, 1, 10) != 1; i++)
		;
	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

int main(int argc, char **argv)
{
	uint64_t n;

	victim_begin(argc, argv);
	for (int i = 0; i < TIMERS; i++)
		if ((fds[i] = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) < 0)
			victim_die("timerfd_create: %m");
	set(fds[FAST], 200, 200);
	set(fds[SLOW], 1, 300000);
	set(fds[UNARMED], 0, 300000);
	set(fds[ONCE], 1, 0);
	k_sleep_ms(20);

	victim_checkpoint();

	for (int i = FAST; i <= SLOW; i++)
		for (int round = 0; round < 3; round++)
			if (!ticks(fds[i])) {
				victim_fail(i == FAST ? "a fast timerfd" : "a slow timerfd", "a tick", "none");
				break;
			}
	expect_u64(1, ticks(fds[ONCE]), "ticks of one that expires once");
	if (read(fds[ONCE], &n, sizeof(n)) != -1 || read(fds[UNARMED], &n, sizeof(n)) != -1)
		victim_fail("one that is not armed", "no tick", "a tick");
	return victim_end();
}
