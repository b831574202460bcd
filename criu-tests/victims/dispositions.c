// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The dispositions of all signals, with handlers, flags, restorers and masks that differ from each other.
 *
 * 62 signals can be set, and the seven flags make 128 combinations: the arguments 0, 1 and 2 take a third each.
 * "ignored" and "default" set flags and masks beside SIG_IGN and SIG_DFL, where they have no effect but are kept.
 * Afterwards every signal that has a handler is sent, and must be handled as its flags say.
 */
#include "victim.h"

static const unsigned long flag_bits[] = {
	SA_NOCLDSTOP, SA_NOCLDWAIT, SA_SIGINFO, SA_RESTART, SA_NODEFER, (unsigned int)SA_RESETHAND, SA_ONSTACK,
};
enum { NFLAGS = sizeof(flag_bits) / sizeof(flag_bits[0]) };

static struct {
	int ran, sig;
	uint64_t mask;
	int on_altstack;
} seen;
static char stack[64 * 1024] __attribute__((aligned(16)));

static void note(int sig)
{
	char here;

	seen.ran++;
	seen.sig = sig;
	seen.mask = k_getmask();
	seen.on_altstack = &here >= stack && &here < stack + sizeof(stack);
}

static void handler_a(int sig)
{
	note(sig);
}

static void handler_b(int sig)
{
	note(sig);
	seen.ran += 100;
}

static unsigned long flags_of(int combination)
{
	unsigned long flags = 0;

	for (int i = 0; i < NFLAGS; i++)
		if (combination >> i & 1)
			flags |= flag_bits[i];
	return flags;
}

/* CRIU alone loses an ignored SIGTRAP: see trap_disposition.c. */
static int settable(int sig)
{
	return sig != SIGKILL && sig != SIGSTOP && !(sig == SIGTRAP && !strcmp(victim_arg(), "ignored"));
}

/* Without SA_RESTORER the kernel keeps the field as it is, and cannot deliver: these are only compared. */
static int deliverable(const struct k_sigaction *act)
{
	return act->handler > 1 && act->flags & K_SA_RESTORER;
}

static void deliver(int sig, const struct k_sigaction *act)
{
	uint64_t expected = k_getmask() | act->mask;
	struct k_sigaction now;

	if (!(act->flags & SA_NODEFER))
		expected |= SIGBIT(sig);
	/* The kernel lets nobody block these two. */
	expected &= ~(SIGBIT(SIGKILL) | SIGBIT(SIGSTOP));
	memset(&seen, 0, sizeof(seen));
	k_tgkill(k_gettid(), sig);
	expect_int(act->handler == (unsigned long)handler_a ? 1 : 101, seen.ran, "signal %d, handler run", sig);
	expect_int(sig, seen.sig, "signal %d, number in the handler", sig);
	expect_u64(expected, seen.mask, "signal %d, mask in the handler", sig);
	expect_int(!!(act->flags & SA_ONSTACK), seen.on_altstack, "signal %d, on the alternate stack", sig);
	k_sigaction(sig, NULL, &now);
	expect_u64(act->flags & (unsigned int)SA_RESETHAND ? 0 : act->handler, now.handler, "signal %d, handler afterwards", sig);
}

int main(int argc, char **argv)
{
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct k_sigaction set[K_NSIG + 1] = { 0 };
	const char *arg;
	int number = 0;

	victim_begin(argc, argv);
	arg = victim_arg();
	if (sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
	for (int sig = 1; sig <= K_NSIG; sig++) {
		struct k_sigaction *act = &set[sig];
		int combination;

		if (!settable(sig))
			continue;
		combination = arg[0] >= '0' && arg[0] <= '2' ? (arg[0] - '0') * 62 + number : number * 5;
		number++;
		act->flags = flags_of(combination % 128);
		act->mask = (0x0123456789abcdefull << (sig % 13)) ^ SIGBIT(sig % 7 * 9 + 1);
		if (sig % 8)
			act->flags |= K_SA_RESTORER;
		act->restorer = victim_restorer(act->flags);
		act->handler = (unsigned long)(sig % 2 ? handler_a : handler_b);
		if (!strcmp(arg, "ignored"))
			act->handler = (unsigned long)SIG_IGN;
		if (!strcmp(arg, "default"))
			act->handler = (unsigned long)SIG_DFL;
		/* Kept as a bare number where it is never called. */
		if (!deliverable(act))
			act->restorer = 0x1000ul * (unsigned long)sig + 1;
		k_sigaction(sig, act, NULL);
	}

	victim_checkpoint();

	for (int sig = 1; sig <= K_NSIG; sig++)
		if (deliverable(&set[sig]))
			deliver(sig, &set[sig]);
	return victim_end();
}
