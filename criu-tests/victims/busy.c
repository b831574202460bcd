// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A program that is at work, and checks itself all the time: threads that compute in registers and memory, and that
 * would see a changed register, a lost flag or a foreign byte; threads that sleep, and that would see EINTR or a
 * mask that is not theirs. Nothing that looks at it from outside may show.
 */
#include "victim.h"

enum { SPINNERS = 2, SLEEPERS = 3 };

#define MASK (SIGBIT(SIGUSR2) | SIGBIT(K_SIGRTMIN + 9))

static uint64_t stir(uint64_t x, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return x;
}

static void spin(int index)
{
	uint64_t x = 88172645463325252ull + (uint64_t)index;
	unsigned char one[2048], two[2048];

	k_setmask(MASK);
	victim_settle(-1);
	while (!victim_released()) {
		uint64_t y = stir(x, 20000);

		if (y != stir(x, 20000))
			victim_fail("registers of a spinning thread", "the same result twice", "two results");
		memset(one, (int)(x & 255), sizeof(one));
		memmove(two, one, sizeof(one));
		if (memcmp(one, two, sizeof(one)))
			victim_fail("memory of a spinning thread", "equal", "changed");
		expect_u64(MASK, k_getmask(), "mask of spinning thread %d", index);
		x = y;
	}
}

static void nap(int index)
{
	k_setmask(MASK);
	victim_settle(-1);
	while (!victim_released()) {
		struct timespec time = { .tv_nsec = 20 * 1000 * 1000 };
		int error = clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);

		expect_int(0, error, "clock_nanosleep of thread %d", index);
		expect_u64(MASK, k_getmask(), "mask of sleeping thread %d", index);
	}
}

int main(int argc, char **argv)
{
	siginfo_t info;

	victim_begin(argc, argv);
	victim_clock();
	k_setmask(MASK);
	for (int i = 0; i < SPINNERS; i++)
		victim_thread(spin, i);
	for (int i = 0; i < SLEEPERS; i++)
		victim_thread(nap, i);
	info = info_value(SIGUSR2, 4711);
	k_queue_shared(&info);
	for (int i = 0; i < 20; i++) {
		info = info_value(K_SIGRTMIN + 9, i);
		k_queue_shared(&info);
	}
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
