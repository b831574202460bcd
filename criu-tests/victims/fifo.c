// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Order. Legacy and real-time signals are queued mixed and from the highest number down, private and shared with
 * the same numbers. Handlers then see: private before shared, the lowest number first, and equal real-time
 * numbers in the order in which they were queued.
 */
#include "victim.h"

enum { ROUNDS = 5 };
static const int numbers[] = { K_SIGRTMIN + 20, SIGUSR2, K_SIGRTMIN + 4, SIGHUP, K_SIGRTMIN + 31, K_SIGRTMIN + 5 };
enum { NUMBERS = sizeof(numbers) / sizeof(numbers[0]), MOST = 2 * ROUNDS * NUMBERS };

static struct {
	int sig, value;
} got[MOST + 1];
static int ngot;

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (ngot < MOST) {
		got[ngot].sig = sig;
		got[ngot].value = info->si_int;
	}
	ngot++;
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void expect_queue(int *at, int base)
{
	int sorted[NUMBERS];

	memcpy(sorted, numbers, sizeof(sorted));
	qsort(sorted, NUMBERS, sizeof(int), by_number);
	for (int n = 0; n < NUMBERS; n++)
		/* A legacy number is pending once: the first one sent stays. */
		for (int i = 0; i < (sorted[n] < K_SIGRTMIN ? 1 : ROUNDS); i++, ++*at) {
			expect_int(sorted[n], got[*at].sig, "signal handled as number %d", *at);
			expect_int(base + i, got[*at].value, "value handled as number %d", *at);
		}
}

int main(int argc, char **argv)
{
	/* The handlers must not interrupt each other: then the last one set up would run first. */
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = SA_SIGINFO | K_SA_RESTORER,
				   .restorer = victim_restorer(SA_SIGINFO),
				   .mask = ALL_SIGNALS };
	siginfo_t info;
	int at = 0;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	for (int n = 0; n < NUMBERS; n++)
		k_sigaction(numbers[n], &act, NULL);
	for (int i = 0; i < ROUNDS; i++)
		for (int n = 0; n < NUMBERS; n++) {
			info = info_value(numbers[n], 2000 + i);
			k_queue_shared(&info);
			info = info_value(numbers[n], 1000 + i);
			k_queue_private(&info);
		}

	victim_checkpoint();

	/*
	 * With all masked in the handlers, each return from one delivers the next. The kernel fills both queues' turns
	 * one by one, and takes from the private queue as long as it holds anything that is not blocked.
	 */
	k_setmask(0);
	expect_queue(&at, 1000);
	expect_queue(&at, 2000);
	expect_int(at, ngot, "signals handled");
	return victim_end();
}
