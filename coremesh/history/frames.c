/* Where the entries of an XRANGE reply lie in the bytes that came out of a socket. See frames.py.
 *
 * A reply is "*N\r\n" and N entries, of which each is
 *   *2\r\n $<l>\r\n<id>\r\n *2\r\n $1\r\ne\r\n $<l>\r\n<event>\r\n
 * Bytes may come in any pieces: what is complete is framed, and the rest waits for more.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#define EXPORT __attribute__((visibility("default")))

/* What takes events that are framed: from the front, as many as it gives back. */
typedef int64_t (*Take)(void *context, const uint8_t *data, const int64_t *spans, int64_t count);

#define LONGEST_ID 64

typedef struct {
    uint8_t *data; /* [room], of which `filled` have come */
    int64_t room;
    int64_t filled;
    int64_t *spans; /* [most][4]: where the id and the event of every entry begin and end */
    int64_t most;
    int64_t at;     /* bytes framed so far */
    int64_t wanted; /* entries of the reply, -1 before its head has come */
    int64_t count;  /* entries framed */
    int64_t first;  /* of them taken, from the front */
    int64_t before; /* entries taken that are no longer here */
    Take take;      /* NULL where there is none */
    void *context;
    uint8_t last[LONGEST_ID]; /* the id of the last entry forgotten */
    int64_t last_size;
} Page;

enum { VERSION = 5 };
enum { MORE = 0, DONE = 1, FULL = 2, CLOSED = 3, LATE = 4, SOME = 5, ODD = -1, BROKEN = -2 };

/* A line of `kind` and a number below 2^31. Gives the place after it, 0 when more bytes are needed, -1 for another. */
static int64_t line(const uint8_t *data, int64_t at, int64_t end, uint8_t kind, int64_t *number)
{
    int64_t value = 0, start = at + 1;
    if (at >= end)
        return 0;
    if (data[at] != kind)
        return -1;
    for (at = start; at < end && data[at] >= '0' && data[at] <= '9'; at++) {
        if (at - start >= 10)
            return -1;
        value = value * 10 + (data[at] - '0');
    }
    if (at + 1 >= end)
        return at < end && data[at] != '\r' ? -1 : 0;
    if (at == start || data[at] != '\r' || data[at + 1] != '\n' || value > INT32_MAX)
        return -1;
    *number = value;
    return at + 2;
}

/* A string "$<l>\r\n...\r\n": gives the place after it as `line` does. */
static int64_t text(const uint8_t *data, int64_t at, int64_t end, int64_t *from, int64_t *to)
{
    int64_t length;
    at = line(data, at, end, '$', &length);
    if (at <= 0)
        return at;
    if (end - at < length + 2)
        return 0;
    if (data[at + length] != '\r' || data[at + length + 1] != '\n')
        return -1;
    *from = at;
    *to = at + length;
    return at + length + 2;
}

/* Frame what has come of a reply. DONE when it is complete and nothing follows it; ODD when it is no such reply. */
EXPORT int64_t coremesh_frames(Page *page)
{
    const uint8_t *data = page->data;
    int64_t filled = page->filled, next, two, from, to;
    if (page->wanted < 0) {
        int64_t wanted;
        next = line(data, 0, filled, '*', &wanted);
        if (next <= 0)
            return next == 0 ? MORE : ODD;
        if (wanted > page->most)
            return ODD;
        page->wanted = wanted;
        page->at = next;
    }
    while (page->count < page->wanted) {
        int64_t *span = page->spans + 4 * page->count;
        next = line(data, page->at, filled, '*', &two);
        if (next <= 0)
            return next == 0 ? MORE : ODD;
        if (two != 2)
            return ODD;
        next = text(data, next, filled, &span[0], &span[1]);
        if (next <= 0)
            return next == 0 ? MORE : ODD;
        if (span[1] - span[0] > LONGEST_ID)
            return ODD;
        next = line(data, next, filled, '*', &two);
        if (next <= 0)
            return next == 0 ? MORE : ODD;
        if (two != 2)
            return ODD;
        next = text(data, next, filled, &from, &to);
        if (next <= 0)
            return next == 0 ? MORE : ODD;
        if (to - from != 1 || data[from] != 'e')
            return ODD;
        next = text(data, next, filled, &span[2], &span[3]);
        if (next <= 0)
            return next == 0 ? MORE : ODD;
        page->at = next;
        page->count++;
    }
    return page->at == filled ? DONE : ODD;
}

/* Forget the entries that are framed: what has come of the next one moves to the front. */
EXPORT int64_t coremesh_forget(Page *page)
{
    if (page->count) {
        const int64_t *span = page->spans + 4 * (page->count - 1);
        page->last_size = span[1] - span[0];
        memcpy(page->last, page->data + span[0], (size_t)page->last_size);
    }
    memmove(page->data, page->data + page->at, (size_t)(page->filled - page->at));
    page->filled -= page->at;
    page->wanted -= page->count;
    page->at = page->count = page->first = 0;
    return 0;
}

/* Whether all that is framed was taken. */
static int given(Page *page)
{
    if (page->take && page->first < page->count)
        page->first += page->take(page->context, page->data, page->spans + 4 * page->first, page->count - page->first);
    return page->count && page->first == page->count;
}

/* Take a reply from a socket that does not block, waiting at most `wait_ms` for every piece. What is framed goes to
 * `take` as it comes, while it is still in the processor's nearest cache, and is forgotten. DONE: the reply is complete.
 * SOME: `take` left some of it, or there is no `take` and at least `piece` bytes are framed, or no more fit. FULL: more
 * room is needed for one entry. After the last two another call goes on. BROKEN: errno says why. */
EXPORT int64_t coremesh_receive(Page *page, int64_t socket, int64_t wait_ms, int64_t piece)
{
    while (1) {
        struct pollfd waiting = {.fd = (int)socket, .events = POLLIN};
        int64_t room = page->room - page->filled;
        ssize_t received = room ? recv((int)socket, page->data + page->filled, (size_t)room, MSG_DONTWAIT) : -1;
        if (received > 0) {
            int64_t found;
            page->filled += received;
            found = coremesh_frames(page);
            if (found == DONE)
                given(page);
            if (found != MORE)
                return found;
        } else if (room && received == 0) {
            return CLOSED;
        } else if (room && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            int ready = poll(&waiting, 1, (int)wait_ms);
            if (ready == 0)
                return LATE;
            if (ready < 0 && errno != EINTR)
                return BROKEN;
        } else if (room && errno != EINTR) {
            return BROKEN;
        }
        if (page->filled == page->room || (page->count && (page->take || page->at >= piece))) {
            int64_t count = page->count;
            if (!given(page))
                return count ? SOME : FULL;
            page->before += count;
            coremesh_forget(page);
        }
    }
}

/* Of the interface: a library of another is not used. */
EXPORT int64_t coremesh_frames_version(void)
{
    return VERSION;
}
