// SPDX-License-Identifier: GPL-2.0-or-later
/* A parent and two children, each with its own dispositions, masks, stack and queues, and threads in the children. */
#include "victim.h"

static int handled;

static void handler(int sig)
{
	(void)sig;
	handled++;
}

static void set_up(int index)
{
	static char stack[64 * 1024];
	stack_t ss = { .ss_sp = stack + 4096 * index, .ss_size = 32768 };
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = SA_ONSTACK | K_SA_RESTORER,
				   .restorer = victim_restorer(0),
				   .mask = SIGBIT(SIGHUP + index) };
	siginfo_t info;

	if (sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
	k_sigaction(SIGRTMIN + index, &act, NULL);
	k_sigaction(SIGUSR1, &act, NULL);
	k_setmask(SIGBIT(SIGUSR1) | SIGBIT(SIGRTMIN + index) | SIGBIT(SIGHUP + index));
	for (int i = 0; i < 3; i++) {
		info = info_value(SIGRTMIN + index, 10 * index + i);
		k_queue_shared(&info);
	}
	info = info_value(SIGRTMIN + index, 10 * index + 9);
	k_queue_private(&info);
	k_tgkill(k_gettid(), SIGUSR1);
}

static void check(int index)
{
	/* All five are delivered at once, through the handlers. */
	k_setmask(0);
	expect_int(5, handled, "signals handled in process %d", index);
}

static void thread(int index)
{
	siginfo_t info = info_value(SIGRTMIN + 7, index);

	k_setmask(SIGBIT(SIGRTMIN + 7) | SIGBIT(SIGRTMIN + 1) | SIGBIT(SIGRTMIN + 2) | SIGBIT(SIGUSR1));
	k_queue_private(&info);
	victim_pause();
	expect_int(SIGRTMIN + 7, k_take(SIGBIT(SIGRTMIN + 7), &info), "the thread's signal");
	expect_int(index, info.si_int, "its value");
}

static void child(int index)
{
	victim_thread(thread, index);
	set_up(index);
	victim_checkpoint();
	check(index);
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	victim_child(child, 1);
	victim_child(child, 2);
	set_up(0);
	victim_checkpoint();
	check(0);
	return victim_end();
}
