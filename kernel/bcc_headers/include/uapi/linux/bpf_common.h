/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Empty. BCC includes this file, but our program uses none of its definitions (BCC has its own bpf.h). */
