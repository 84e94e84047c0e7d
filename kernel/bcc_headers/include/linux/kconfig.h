/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* BCC reads the configuration of its "kernel tree". It checks only this option. */
#define CONFIG_BPF_SYSCALL 1
