// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A second CRIU plugin, which only says that it was called, and else does what OTHER_PLUGIN in criu's environment says:
 * nothing, or "fails-init", or "hides" (answers for all plugins, so that CRIU asks no other), or "names-none" (calls the
 * same hook of the plugin under test with numbers that name no process, as a later CRIU may). Copied beside the plugin
 * under test, under names that CRIU reads before and after it, it shows that neither hides the other.
 *
 * The descriptor is written down here, not taken from criu-plugin.h, so that this builds without CRIU's headers.
 * max_hooks stays 12: a CRIU that knows fewer hooks than a plugin claims refuses to run.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RESUME_DEVICES_LATE = 9, CHECKPOINT_DEVICES = 11, MAX_HOOKS = 12 };
enum { LOG_INFO = 3 };

struct cr_plugin_desc {
	const char *name;
	int (*init)(int stage);
	void (*exit)(int stage, int ret);
	unsigned int version;
	unsigned int max_hooks;
	void *hooks[MAX_HOOKS];
};

/* In criu itself. */
extern void print_on_level(unsigned int level, const char *format, ...);

/* The name under which this copy was loaded. */
static const char *file_name(void)
{
	Dl_info info;
	const char *slash;

	if (!dladdr((void *)file_name, &info) || !info.dli_fname)
		return "?";
	slash = strrchr(info.dli_fname, '/');
	return slash ? slash + 1 : info.dli_fname;
}

static int does(const char *what)
{
	const char *set = getenv("OTHER_PLUGIN");

	return set && !strcmp(set, what);
}

static int init(int stage)
{
	(void)stage;
	return does("fails-init") ? -1 : 0;
}

static void finish(int stage, int ret)
{
	(void)stage;
	(void)ret;
}

/* Calls a hook of the plugin under test, which lies in the same folder and is loaded. */
static void call_with_none(int hook)
{
	static const int none[] = { -1, 0, INT_MIN };
	const struct cr_plugin_desc *desc;
	char path[PATH_MAX];
	Dl_info info;
	char *slash;
	void *lib;

	if (!dladdr((void *)call_with_none, &info) || !info.dli_fname)
		return;
	snprintf(path, sizeof(path), "%s", info.dli_fname);
	slash = strrchr(path, '/');
	if (!slash)
		return;
	snprintf(slash + 1, (size_t)(path + sizeof(path) - slash - 1), "signals_plugin.so");
	lib = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
	desc = lib ? dlsym(lib, "CR_PLUGIN_DESC") : NULL;
	if (!desc)
		return;
	for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++)
		print_on_level(LOG_INFO, "other plugin: hook %d(%d) gives %d\n", hook, none[i],
			       ((int (*)(int))desc->hooks[hook])(none[i]));
	dlclose(lib);
}

static int checkpoint(int pid)
{
	if (does("names-none"))
		call_with_none(CHECKPOINT_DEVICES);
	print_on_level(LOG_INFO, "other plugin: checkpoint %d (%s)\n", pid, file_name());
	/* "Not mine": CRIU goes on to the next plugin. */
	return does("hides") ? 0 : -ENOTSUP;
}

static int resume(int pid)
{
	if (does("names-none"))
		call_with_none(RESUME_DEVICES_LATE);
	print_on_level(LOG_INFO, "other plugin: resume %d (%s)\n", pid, file_name());
	return does("hides") ? 0 : -ENOTSUP;
}

struct cr_plugin_desc CR_PLUGIN_DESC = {
	.name = "other_plugin",
	.init = init,
	.exit = finish,
	/* CRIU_PLUGIN_GEN_VERSION(0, 2, 0) */
	.version = 2 << 8,
	.max_hooks = MAX_HOOKS,
	.hooks = { [RESUME_DEVICES_LATE] = (void *)resume, [CHECKPOINT_DEVICES] = (void *)checkpoint },
};
