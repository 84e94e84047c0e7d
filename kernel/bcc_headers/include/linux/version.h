/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Our program does not depend on the version of the running kernel, because its context is stable UAPI. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 9, 0)
