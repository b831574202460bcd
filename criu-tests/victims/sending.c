// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * No victim, but who sends to one: `sending PID N [FIRST]`, SIGRTMIN by sigqueue(3) with N values from FIRST (or 0) on, about one in
 * 100 us.
 */
#include "victim.h"

int main(int argc, char **argv)
{
	pid_t pid;
	int count, first;

	if (argc != 3 && argc != 4)
		return 2;
	pid = atoi(argv[1]);
	count = atoi(argv[2]);
	first = argc == 4 ? atoi(argv[3]) : 0;
	for (int i = 0; i < count; i++) {
		siginfo_t info = info_value(SIGRTMIN, first + i);

		info.si_pid = getpid();
		info.si_uid = getuid();
		if (syscall(SYS_rt_sigqueueinfo, pid, SIGRTMIN, &info)) {
			perror("rt_sigqueueinfo");
			return 1;
		}
		usleep(100);
	}
	return 0;
}
