// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * In a handler that blocks everything as long as the file `handle` is there; the file `handling` says that it is. Outside of
 * it nothing is blocked, which is what it looks at in the end.
 */
#include "victim.h"

static char handle[PATH_MAX], handling[PATH_MAX];

static void on_usr1(int sig)
{
	(void)sig;
	victim_write_file("handling", "");
	while (!access(handle, F_OK))
		k_sleep_ms(1);
	unlink(handling);
}

int main(int argc, char **argv)
{
	struct k_sigaction action = {.handler = (unsigned long)on_usr1, .flags = K_SA_RESTORER, .mask = ALL_SIGNALS};
	char go[PATH_MAX];

	victim_begin(argc, argv);
	victim_path(handle, "handle");
	victim_path(handling, "handling");
	victim_path(go, "go");
	action.restorer = victim_restorer(0);
	k_sigaction(SIGUSR1, &action, NULL);
	victim_write_file("ready", "");
	while (access(go, F_OK))
		k_sleep_ms(1);
	expect_u64(0, k_getmask(), "what is blocked outside of the handler");
	return victim_end();
}
