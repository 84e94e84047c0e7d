/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Empty: BCC includes it, our program needs nothing of it (BCC brings its own bpf.h). */
