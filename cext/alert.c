/* SPDX-License-Identifier: Apache-2.0
 *
 * The alert of a refused TLS client. Owns nothing.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "alert.h"

#define HELLO_MAX (1 << 20) /* bytes; a client that sends more is reset before it reads the alert */

/* A record of type alert, version 1.2 for all clients: level fatal, description access_denied. */
static const uint8_t access_denied[] = {21, 3, 3, 0, 2, 2, 49};

int alert_send(int client)
{
	/* A close with unread bytes sends a reset, which may overtake the alert. With MSG_TRUNC, TCP discards bytes. */
	recv(client, NULL, HELLO_MAX, MSG_DONTWAIT | MSG_TRUNC);
	return send(client, access_denied, sizeof access_denied, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof access_denied;
}
