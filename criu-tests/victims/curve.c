// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A queue as deep as the argument says: DEPTH,NUMBERS,shared or DEPTH,NUMBERS,private. So many real-time numbers
 * are mixed, one after the other, with a value in each entry.
 *
 * It does not record its state as the other victims do: PTRACE_PEEKSIGINFO takes longer for such a queue than all that is
 * measured. It takes the entries out in the order in which they were queued, where the kernel finds each at once.
 * The file `cost` has what the bare system calls take: nanoseconds for queueing all, and for taking all out.
 */
#include "victim.h"

static int depth, numbers, private;

static int number_of(int i)
{
	return SIGRTMIN + i % numbers;
}

static void fill(void)
{
	for (int i = 0; i < depth; i++) {
		siginfo_t info = info_value(number_of(i), i);

		if (private)
			k_queue_private(&info);
		else
			k_queue_shared(&info);
	}
}

static void drain(void)
{
	for (int i = 0; i < depth; i++) {
		siginfo_t info;
		int got = k_take(SIGBIT(number_of(i)), &info);

		if (got != number_of(i) || info.si_code != SI_QUEUE || info.si_int != i) {
			expect_int(number_of(i), got, "number of entry %d", i);
			expect_int(i, got ? info.si_int : -1, "value of entry %d", i);
			return;
		}
	}
}

static long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000l + t.tv_nsec;
}

int main(int argc, char **argv)
{
	char text[64], kind[16], go[PATH_MAX];
	long begun, queued, taken;

	victim_begin(argc, argv);
	if (sscanf(victim_arg(), "%d,%d,%15s", &depth, &numbers, kind) != 3 || depth <= 0 || numbers <= 0)
		victim_die("the argument is DEPTH,NUMBERS,shared|private");
	private = !strcmp(kind, "private");
	k_setmask(ALL_SIGNALS);
	begun = now_ns();
	fill();
	queued = now_ns();
	drain();
	taken = now_ns();
	snprintf(text, sizeof(text), "%ld %ld", queued - begun, taken - queued);
	victim_write_file("cost", text);
	fill();
	victim_write_file("ready", "");
	victim_path(go, "go");
	while (access(go, F_OK))
		k_sleep_ms(2);
	drain();
	expect_u64(0, victim_shared_pending(), "pending after all was taken");
	return victim_end();
}
