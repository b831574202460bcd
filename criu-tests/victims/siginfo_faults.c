// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every byte of the siginfos of faults, queued by the process to itself: only it may use a positive si_code. A
 * legacy number is pending once per queue, so one child stands for each code: child i holds code i + 1 of all
 * numbers. They are in the shared queue. (In a private one CRIU cannot dump them: see private_fault.c.)
 *
 * Of a code that it does not know the kernel takes no siginfo with bytes behind the fields: E2BIG. So it is asked.
 */
#include "victim.h"

enum { MOST_CODES = 15 };

/* NSIGSEGV and so on of the kernel's asm-generic/siginfo.h, and what they were in 5.10. */
static const struct {
	int sig, codes, at_least;
} faults[] = { { SIGSEGV, 10, 9 }, { SIGBUS, 5, 5 }, { SIGFPE, 15, 15 }, { SIGILL, 11, 11 }, { SIGSYS, 2, 1 } };

static void queue(const siginfo_t *info, int is_known)
{
	if (is_known)
		k_queue_shared(info);
	else if (syscall(SYS_rt_sigqueueinfo, getpid(), info->si_signo, info) && errno != E2BIG)
		victim_die("rt_sigqueueinfo(%d, code %d): %m", info->si_signo, info->si_code);
}

static void child(int index)
{
	int code = index + 1;

	k_setmask(ALL_SIGNALS);
	for (unsigned int i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		siginfo_t info;

		if (code > faults[i].codes)
			continue;
		info = info_pattern(faults[i].sig, code, (unsigned char)(index * 8 + (int)i), INFO_WHOLE);
		queue(&info, code <= faults[i].at_least);
	}
	victim_checkpoint();
	victim_drain();
}

int main(int argc, char **argv)
{
	siginfo_t info;

	victim_begin(argc, argv);
	for (int i = 0; i < MOST_CODES; i++)
		victim_child(child, i);

	/* And as the kernel fills them, with nothing around the fields. */
	k_setmask(ALL_SIGNALS);
	memset(&info, 0, sizeof(info));
	info.si_signo = SIGSEGV;
	info.si_code = 3; /* SEGV_BNDERR */
	info.si_addr = (void *)0x1000;
	info.si_lower = (void *)0x2000;
	info.si_upper = (void *)0x3000;
	k_queue_shared(&info);
	memset(&info, 0, sizeof(info));
	info.si_signo = SIGBUS;
	info.si_code = 4; /* BUS_MCEERR_AR */
	info.si_addr = (void *)0x7fff00000000;
	info.si_addr_lsb = 12;
	k_queue_shared(&info);
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
