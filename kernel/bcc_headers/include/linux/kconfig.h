/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* BCC asks its "kernel tree" for a configuration; this is all it looks at. */
#define CONFIG_BPF_SYSCALL 1
