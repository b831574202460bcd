// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every byte of a siginfo that user space sends: by kill, tgkill and sigqueue, from the process itself and from
 * one that is gone by then, and by rt_sigqueueinfo with a pattern in all 112 bytes after si_code.
 */
#include "victim.h"

static const int codes[] = {
	SI_QUEUE, SI_TIMER, SI_MESGQ, SI_ASYNCIO, SI_SIGIO, SI_TKILL, -7 /* SI_DETHREAD */, -60 /* SI_ASYNCNL */,
	-1000, INT_MIN, SI_USER, 0x80 /* SI_KERNEL */,
	/* Positive codes are the kernel's own. With a real-time number they mean SIGPOLL's layout, or none. */
	1, 6, 7, 1000,
};

/* In the kernel: known_siginfo_layout(). For other codes it refuses anything beyond its own 48 bytes. */
static size_t room(int code)
{
	int known = code == SI_USER || code == 0x80 || (code < 0 && code >= -7) || code == -60 || (code > 0 && code <= 6);

	return known ? INFO_WHOLE : INFO_KEPT;
}

static void send_from_another_process(void)
{
	pid_t parent = getpid(), pid = fork();
	int status;

	if (pid < 0)
		victim_die("fork: %m");
	if (!pid) {
		union sigval value = { .sival_ptr = (void *)0x1122334455667788ull };

		if (kill(parent, SIGUSR1) || kill(parent, SIGTERM) || sigqueue(parent, SIGRTMIN, value) ||
		    kill(parent, SIGRTMIN + 1))
			_exit(1);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		victim_die("the sender failed");
}

int main(int argc, char **argv)
{
	union sigval value = { .sival_int = -5 };
	siginfo_t info;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	send_from_another_process();
	kill(getpid(), SIGHUP);
	kill(getpid(), SIGRTMIN);
	sigqueue(getpid(), SIGRTMIN, value);
	sigqueue(getpid(), SIGUSR2, value);
	k_tgkill(k_gettid(), SIGINT);
	k_tgkill(k_gettid(), SIGRTMIN + 2);
	for (unsigned int i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		info = info_pattern(SIGRTMIN + 3, codes[i], (unsigned char)(0x40 + i), room(codes[i]));
		k_queue_shared(&info);
		k_queue_private(&info);
	}
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
