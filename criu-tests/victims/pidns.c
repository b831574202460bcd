// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pid 1 of a pid namespace of its own, with a thread and a child: the ids in siginfos are those of the namespace.
 * The program starts the victim and ends, leaving its pid as seen from outside in the file `pid`.
 */
#include "victim.h"

#include <sched.h>

static pid_t sender;

static void thread(int index)
{
	siginfo_t info = info_value(SIGRTMIN + 1, index);

	k_setmask(ALL_SIGNALS);
	k_queue_private(&info);
	victim_pause();
	victim_drain();
}

static void child(int index)
{
	(void)index;
	k_setmask(ALL_SIGNALS);
	kill(getpid(), SIGRTMIN);
	kill(getppid(), SIGRTMIN + 4);
	victim_checkpoint();
	victim_drain();
}

int main(int argc, char **argv)
{
	siginfo_t info;
	pid_t pid;

	victim_begin(argc, argv);
	if (unshare(CLONE_NEWPID))
		victim_die("unshare: %m");
	pid = fork();
	if (pid < 0)
		victim_die("fork: %m");
	if (pid) {
		char text[16];

		snprintf(text, sizeof(text), "%d", pid);
		victim_write_file("pid", text);
		return 0;
	}

	victim_begin(argc, argv);
	expect_int(1, getpid(), "pid");
	k_setmask(ALL_SIGNALS);
	sender = victim_child(child, 0);
	victim_thread(thread, 1);
	kill(getpid(), SIGHUP);
	k_tgkill(k_gettid(), SIGUSR1);

	victim_checkpoint();

	expect_int(SIGUSR1, k_take(SIGBIT(SIGUSR1), &info), "tgkill's signal");
	expect_int(1, info.si_pid, "its si_pid");
	expect_int(SIGHUP, k_take(SIGBIT(SIGHUP), &info), "kill's signal");
	expect_int(1, info.si_pid, "its si_pid");
	expect_int(SIGRTMIN + 4, k_take(SIGBIT(SIGRTMIN + 4), &info), "the child's signal");
	expect_int(sender, info.si_pid, "its si_pid");
	return victim_end();
}
