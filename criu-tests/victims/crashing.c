// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Ends with a core file, when it is released: by a fault of its own in its second thread (segv), by a SIGABRT that its first
 * thread sends itself (abort), or by a signal that somebody sends (quit).
 */
#include "victim.h"

#include <sys/resource.h>

static int is(const char *way)
{
	return !strcmp(victim_arg(), way);
}

static void fill(int index)
{
	siginfo_t info;

	k_setmask(SIGBIT(SIGHUP) | SIGBIT(SIGUSR2) | SIGBIT(K_SIGRTMIN + 3 + index));
	info = info_value(K_SIGRTMIN + 3 + index, index);
	k_queue_private(&info);
	k_queue_private(&info);
	k_tgkill(k_gettid(), SIGHUP);
}

static void thread(int index)
{
	fill(index);
	victim_pause();
	if (index == 1 && is("segv"))
		*(volatile int *)0x1230 = 0;
	for (;;)
		k_sleep_ms(100);
}

int main(int argc, char **argv)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	siginfo_t info;
	char folder[PATH_MAX];

	victim_begin(argc, argv);
	victim_path(folder, "cores");
	/* A core is written into the working directory, by a core_pattern without a path. */
	if (setrlimit(RLIMIT_CORE, &all) || chdir(folder))
		victim_die("RLIMIT_CORE, %s", folder);
	for (int i = 1; i <= 3; i++)
		victim_thread(thread, i);
	fill(0);
	info = info_value(SIGUSR2, 5);
	k_queue_shared(&info);
	victim_checkpoint();
	if (is("abort"))
		k_tgkill(k_gettid(), SIGABRT);
	for (;;)
		k_sleep_ms(100);
}
