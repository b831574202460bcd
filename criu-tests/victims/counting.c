// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Counts what is sent to it by SIGRTMIN, value by value, and writes at the end how many there were, and of how many values,
 * into the file `counted`. With the argument `blocked` it blocks the signal until the end, but for an instant when there is a
 * file `drain`, which it removes then.
 */
#include "victim.h"

enum { MOST = 100000 };

static volatile int all;
static volatile unsigned char seen[MOST];

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	all++;
	if (info->si_value.sival_int >= 0 && info->si_value.sival_int < MOST)
		seen[info->si_value.sival_int] = 1;
}

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = SA_SIGINFO | SA_RESTART | K_SA_RESTORER,
				   .restorer = victim_restorer(SA_SIGINFO) };
	char path[PATH_MAX], text[64];
	int values = 0;

	victim_begin(argc, argv);
	k_sigaction(SIGRTMIN, &act, NULL);
	if (!strcmp(victim_arg(), "blocked"))
		k_setmask(SIGBIT(SIGRTMIN));
	victim_write_file("ready", "");
	while (victim_path(path, "go"), access(path, F_OK)) {
		victim_path(path, "drain");
		if (!access(path, F_OK)) {
			k_setmask(0);
			k_setmask(SIGBIT(SIGRTMIN));
			unlink(path);
		}
		k_sleep_ms(5);
	}
	k_setmask(0);
	for (int i = 0; i < MOST; i++)
		values += seen[i];
	snprintf(text, sizeof(text), "%d of %d", all, values);
	victim_write_file("counted", text);
	return victim_end();
}
