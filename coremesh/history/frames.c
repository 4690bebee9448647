/* Where the entries of an XRANGE reply lie in the bytes that came out of a socket. See frames.py.
 *
 * A reply is "*N\r\n" and N entries, of which each is
 *   *2\r\n $<l>\r\n<id>\r\n *2\r\n $1\r\ne\r\n $<l>\r\n<event>\r\n
 * Bytes may come in any pieces: what is complete is framed, and the rest waits for more.
 */
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef struct {
    int64_t at;     /* bytes framed so far */
    int64_t wanted; /* entries of the reply, -1 before its head has come */
    int64_t count;  /* entries framed */
} Progress;

enum { VERSION = 1 };
enum { MORE = 0, DONE = 1, ODD = -1 };

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

/* Frame what has come of a reply: `data` [filled]. `spans` [room][4] is told where the id and the event of every entry
 * begin and end. DONE when the reply is complete and nothing follows it; ODD when it is no such reply. */
EXPORT int64_t coremesh_frames(const uint8_t *data, int64_t filled, int64_t *spans, int64_t room, Progress *progress)
{
    int64_t next, two, from, to;
    if (progress->wanted < 0) {
        next = line(data, 0, filled, '*', &progress->wanted);
        if (next <= 0) {
            progress->wanted = -1;
            return next == 0 ? MORE : ODD;
        }
        if (progress->wanted > room)
            return ODD;
        progress->at = next;
    }
    while (progress->count < progress->wanted) {
        int64_t *span = spans + 4 * progress->count;
        next = line(data, progress->at, filled, '*', &two);
        if (next <= 0)
            return next == 0 ? MORE : ODD;
        if (two != 2)
            return ODD;
        next = text(data, next, filled, &span[0], &span[1]);
        if (next <= 0)
            return next == 0 ? MORE : ODD;
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
        progress->at = next;
        progress->count++;
    }
    return progress->at == filled ? DONE : ODD;
}

/* Of the interface: a library of another is not used. */
EXPORT int64_t coremesh_frames_version(void)
{
    return VERSION;
}
