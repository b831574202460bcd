// SPDX-License-Identifier: GPL-2.0-or-later
/* No victim, but who sends to one: `sending PID N`, SIGRTMIN by sigqueue(3) with the values 0 to N-1, about one in 100 us. */
#include "victim.h"

int main(int argc, char **argv)
{
	pid_t pid;
	int count;

	if (argc != 3)
		return 2;
	pid = atoi(argv[1]);
	count = atoi(argv[2]);
	for (int i = 0; i < count; i++) {
		siginfo_t info = info_value(SIGRTMIN, i);

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
