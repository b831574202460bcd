// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a plugin sees of a criu 3.17: its log, and a list of hook chains that is too short. A real one does not get as
 * far as loading plugins on present kernels, where it can't read the vDSO.
 *
 *   old_criu PLUGIN
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>

/* One list head, and one for each of 10 hooks: as in Debian 12's criu. */
struct {
	void *next, *prev;
} cr_plugin_ctl[11];

void print_on_level(unsigned int level, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("%u: ", level);
	vprintf(format, args);
	va_end(args);
}

int main(int argc, char **argv)
{
	if (argc != 2 || !dlopen(argv[1], RTLD_LAZY)) {
		printf("dlopen: %s\n", dlerror());
		return 1;
	}
	return 0;
}
