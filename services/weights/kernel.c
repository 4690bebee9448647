/* The score fold over packed events: what exact.py, rules.py, columns.py and batch.py do, event by event and to the
 * same bits. See kernel.py.
 *
 * Only operations that IEEE 754 rounds exactly are used, in the order of those modules; it must be compiled without
 * contraction of a product and a sum (-ffp-contract=off).
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

#define MOST 512        /* entries of an event folded here */
#define GROUP 8         /* events worked on at once */
#define CONTAINERS 256  /* arrays and maps in an event that are walked here: no nesting that others would refuse */
#define SCORED 4        /* coremesh.events.Flag.SCORED */
#define RETIRED 4       /* state.RETIRED_KEPT */
#define FAILURE_Z (-1.5)

enum { VERSION = 3 };
enum { SOFTMAX = 0, SHRUNK_Z = 1 };
enum { APPLIED = 0, ODD = 1, NEEDS_RETIRED = 2, READY = 3 };

typedef struct {
    /* Of the state, [size] each; see state.py. */
    double *moving;
    uint64_t *digests;
    int64_t *successes;
    int64_t *failures;
    const uint8_t *excluded;
    int64_t *reset_blocks;
    int64_t *seen;
    /* The digests of those that count: 0 where one is excluded. */
    uint64_t *counted;
    int64_t size;
    /* Digests of former hotkeys [retired_rows][RETIRED], 0 where there is none; NULL while nobody has asked. */
    const uint64_t *retired;
    int64_t retired_rows;
    int64_t events;
    int64_t scored_ms;
    /* Of the rule. */
    int64_t rule;
    double keep;
    double share;
    double temperature;
} State;

typedef struct {
    int64_t time_ms, block, flags;
    const uint8_t *uids, *hotkeys, *rewards;
    int64_t uids_size, hotkeys_size, rewards_size;
} Event;

typedef struct {
    Event event;
    int64_t n;
    uint16_t uids[MOST];
    uint64_t hotkeys[MOST];
    uint64_t ok[MOST];
    double x[MOST];
} Entries;

/* -- msgpack ------------------------------------------------------------------------------------------------------ */

INLINE uint64_t big(const uint8_t *p, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | p[i];
    return value;
}

/* The head of one value: its size, and for containers how many values follow. NULL where it is cut short or of a kind
 * that events do not have. */
static const uint8_t *head(const uint8_t *p, const uint8_t *end, int64_t *inside, int64_t *values)
{
    int64_t bytes = 0, length_bytes = 0, factor = 0;
    uint8_t kind;
    if (p >= end)
        return 0;
    kind = *p++;
    *inside = *values = 0;
    if (kind < 0x80 || kind >= 0xe0)
        return p;
    if (kind < 0x90) {
        *values = 2 * (kind & 15);
        return p;
    }
    if (kind < 0xa0) {
        *values = kind & 15;
        return p;
    }
    if (kind < 0xc0) {
        bytes = kind & 31;
    } else {
        switch (kind) {
        case 0xc0: case 0xc2: case 0xc3: return p;
        case 0xc4: case 0xd9: length_bytes = 1; break;
        case 0xc5: case 0xda: length_bytes = 2; break;
        case 0xc6: case 0xdb: length_bytes = 4; break;
        case 0xcc: case 0xd0: bytes = 1; break;
        case 0xcd: case 0xd1: bytes = 2; break;
        case 0xca: case 0xce: case 0xd2: bytes = 4; break;
        case 0xcb: case 0xcf: case 0xd3: bytes = 8; break;
        case 0xdc: length_bytes = 2; factor = 1; break;
        case 0xdd: length_bytes = 4; factor = 1; break;
        case 0xde: length_bytes = 2; factor = 2; break;
        case 0xdf: length_bytes = 4; factor = 2; break;
        default: return 0;
        }
        if (length_bytes) {
            if (end - p < length_bytes)
                return 0;
            bytes = (int64_t)big(p, (int)length_bytes);
            p += length_bytes;
            if (factor) {
                *values = factor * bytes;
                return p;
            }
        }
    }
    if (end - p < bytes)
        return 0;
    *inside = bytes;
    return p;
}

/* Past `values` whole values. */
static const uint8_t *skip(const uint8_t *p, const uint8_t *end, int64_t values, int64_t *containers)
{
    int64_t inside, more;
    while (values > 0) {
        p = head(p, end, &inside, &more);
        if (!p)
            return 0;
        if (more) {
            if (--*containers < 0)
                return 0;
        }
        p += inside;
        values += more - 1;
    }
    return p;
}

static const uint8_t *integer(const uint8_t *p, const uint8_t *end, int64_t *value)
{
    uint8_t kind;
    int bytes;
    uint64_t raw;
    if (p >= end)
        return 0;
    kind = *p++;
    if (kind < 0x80 || kind >= 0xe0) {
        *value = (int8_t)kind;
        return p;
    }
    if ((kind < 0xcc || kind > 0xd3))
        return 0;
    bytes = 1 << ((kind - 0xcc) & 3);
    if (end - p < bytes)
        return 0;
    raw = big(p, bytes);
    if (kind <= 0xcf) {
        if (raw > (uint64_t)INT64_MAX)
            return 0;
        *value = (int64_t)raw;
    } else {
        *value = (int64_t)(raw << (64 - 8 * bytes)) >> (64 - 8 * bytes);
    }
    return p + bytes;
}

static const uint8_t *packed(const uint8_t *p, const uint8_t *end, const uint8_t **from, int64_t *size)
{
    int64_t values;
    if (p >= end || *p < 0xc4 || *p > 0xc6)
        return 0;
    p = head(p, end, size, &values);
    if (!p)
        return 0;
    *from = p;
    return p + *size;
}

/* A forward event as coremesh.events.ForwardEvent is packed, as far as the fold reads it; 0 for anything else. */
static int parse(const uint8_t *p, const uint8_t *end, Event *event)
{
    int64_t containers = CONTAINERS, inside, fields, tag;
    if (p >= end || !((*p & 0xf0) == 0x90 || *p == 0xdc))
        return 0;
    p = head(p, end, &inside, &fields);
    if (!p || fields < 12)
        return 0;
    if (!(p = integer(p, end, &tag)) || tag != 1)
        return 0;
    if (!(p = skip(p, end, 1, &containers)))
        return 0;
    if (!(p = integer(p, end, &event->time_ms)))
        return 0;
    if (!(p = integer(p, end, &event->block)))
        return 0;
    if (!(p = skip(p, end, 1, &containers)))
        return 0;
    if (!(p = integer(p, end, &event->flags)))
        return 0;
    if (!(p = skip(p, end, 1, &containers)))
        return 0;
    if (!(p = packed(p, end, &event->uids, &event->uids_size)))
        return 0;
    if (!(p = packed(p, end, &event->hotkeys, &event->hotkeys_size)))
        return 0;
    if (!(p = skip(p, end, 2, &containers)))
        return 0;
    if (!(p = packed(p, end, &event->rewards, &event->rewards_size)))
        return 0;
    return skip(p, end, fields - 12, &containers) == end;
}

/* -- exact.py ----------------------------------------------------------------------------------------------------- */

static const double LOG2_E = 1.4426950408889634;
static const double LN2_HIGH = 0.6931471803691238;
static const double LN2_LOW = 1.9082149292705877e-10;
static const double SMALLEST = -708.0;
static const double ROUND = 6755399441055744.0;          /* 2^52 + 2^51: adding it rounds to the nearest integer */
static const double SHIFT = 6755399441055744.0 + 1023.0; /* see exact.py */

/* x becomes e^x for each of `count` values <= 0; see exact.exp. */
INLINE void exponentials(double *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        double within = x[i] < SMALLEST ? SMALLEST : x[i];
        double k = (within * LOG2_E + ROUND) - ROUND;
        double r = (within - k * LN2_HIGH) - k * LN2_LOW;
        double p = r * (1.0 / 6227020800.0);
        double scale;
        uint64_t bits;
        p += 1.0 / 479001600.0;
        p = p * r + 1.0 / 39916800.0;
        p = p * r + 1.0 / 3628800.0;
        p = p * r + 1.0 / 362880.0;
        p = p * r + 1.0 / 40320.0;
        p = p * r + 1.0 / 5040.0;
        p = p * r + 1.0 / 720.0;
        p = p * r + 1.0 / 120.0;
        p = p * r + 1.0 / 24.0;
        p = p * r + 1.0 / 6.0;
        p = p * r + 1.0 / 2.0;
        p = p * r + 1.0;
        p = p * r + 1.0;
        scale = k + SHIFT;
        memcpy(&bits, &scale, 8);
        bits <<= 52;
        memcpy(&scale, &bits, 8);
        p *= scale;
        x[i] = x[i] < SMALLEST ? 0.0 : p;
    }
}

/* The next multiple of 8: loops over whole vectors are faster, and MOST is one. */
INLINE int64_t up(int64_t count)
{
    return (count + 7) & ~(int64_t)7;
}

/* The largest of x [whole], in eight columns: it does not depend on their order. */
INLINE double largest_of(const double *x, int64_t whole)
{
    double columns[8], largest = -INFINITY;
    for (int j = 0; j < 8; j++)
        columns[j] = x[j];
    for (int64_t i = 8; i < whole; i += 8)
        for (int j = 0; j < 8; j++)
            columns[j] = x[i + j] > columns[j] ? x[i + j] : columns[j];
    for (int j = 0; j < 8; j++)
        largest = columns[j] > largest ? columns[j] : largest;
    return largest;
}

/* Shares before they are divided by their sum: x [count] holds rewards, -inf where there is none, and has room up to the
 * next multiple of 8. 0 where a quotient is not finite. */
INLINE int powers(double *x, int64_t count, double temperature)
{
    int64_t whole = up(count);
    double largest;
    for (int64_t i = count; i < whole; i++)
        x[i] = -INFINITY;
    if (temperature != 1.0)
        for (int64_t i = 0; i < whole; i++)
            x[i] /= temperature;
    largest = largest_of(x, whole);
    if (!(largest > -INFINITY && largest < INFINITY))
        return 0;
    for (int64_t i = 0; i < whole; i++)
        x[i] -= largest;
    exponentials(x, whole);
    return 1;
}

/* SoftmaxEma.contributions of up to GROUP events at once: every sum goes from left to right, and each takes as long as
 * all of them side by side. Gives how many were done: the next has a quotient that is not finite. */
INLINE int softmax(Entries *group, int events, double temperature, double share)
{
    int64_t longest = 0;
    double total[GROUP] = {0};
    for (int g = 0; g < events; g++) {
        if (!powers(group[g].x, group[g].n, temperature)) {
            events = g;
            break;
        }
        longest = group[g].n > longest ? group[g].n : longest;
    }
    /* Zeros after the last change no sum. */
    for (int g = 0; g < events; g++)
        for (int64_t i = up(group[g].n); i < longest; i++)
            group[g].x[i] = 0.0;
    if (events == GROUP)
        for (int64_t i = 0; i < longest; i++)
            for (int g = 0; g < GROUP; g++)
                total[g] += group[g].x[i];
    else
        for (int g = 0; g < events; g++)
            for (int64_t i = 0; i < group[g].n; i++)
                total[g] += group[g].x[i];
    for (int g = 0; g < events; g++) {
        double *x = group[g].x;
        for (int64_t i = 0, whole = up(group[g].n); i < whole; i++)
            x[i] = x[i] / total[g] * share;
    }
    return events;
}

/* ShrunkZ.contributions of one event: x holds rewards, 0 where there is none. */
INLINE void z_scores(double *x, const uint64_t *ok, int64_t count)
{
    double n = 0, mean, total, squares, deviation;
    for (int64_t i = 0; i < count; i++)
        n += (double)ok[i];
    total = x[0];
    for (int64_t i = 1; i < count; i++)
        total += x[i];
    mean = total / n;
    for (int64_t i = 0; i < count; i++)
        x[i] = ok[i] ? x[i] - mean : 0.0;
    squares = x[0] * x[0];
    for (int64_t i = 1; i < count; i++)
        squares += x[i] * x[i];
    deviation = sqrt(squares / n);
    for (int64_t i = 0; i < count; i++)
        x[i] = !ok[i] ? FAILURE_Z : deviation > 0 ? x[i] / deviation : 0.0;
}

INLINE int shrunk_z(Entries *group, int events)
{
    for (int g = 0; g < events; g++)
        z_scores(group[g].x, group[g].ok, group[g].n);
    return events;
}

/* -- batch.py ----------------------------------------------------------------------------------------------------- */

static int is_retired(const State *state, int64_t uid, uint64_t digest)
{
    if (uid < state->retired_rows)
        for (int i = 0; i < RETIRED; i++)
            if (state->retired[uid * RETIRED + i] == digest)
                return 1;
    return 0;
}

/* Read one event, up to its rewards. READY, APPLIED where it counts for nothing, or ODD. */
INLINE int prepare(Entries *entries, const uint8_t *from, const uint8_t *to, int64_t rule)
{
    Event *event = &entries->event;
    float rewards[MOST];
    uint64_t found = 0;
    int64_t n;
    if (!parse(from, to, event))
        return ODD;
    n = event->rewards_size / 4;
    if (!(event->flags & SCORED) || event->rewards_size % 4 || event->uids_size != 2 * n
        || event->hotkeys_size != 8 * n)
        return APPLIED; /* not scored, or broken */
    if (n > MOST)
        return ODD;
    entries->n = n;
    memcpy(entries->uids, event->uids, (size_t)event->uids_size);
    memcpy(entries->hotkeys, event->hotkeys, (size_t)event->hotkeys_size);
    memcpy(rewards, event->rewards, (size_t)event->rewards_size);
    for (int64_t i = 0; i < n; i++) {
        double value = rewards[i];
        uint64_t ok = value - value == 0.0; /* neither NaN nor infinite */
        entries->ok[i] = ok;
        found += ok;
        entries->x[i] = ok ? value : rule == SOFTMAX ? -INFINITY : 0.0;
    }
    return found ? READY : APPLIED;
}

INLINE void count(State *state, int64_t uid, double contribution, uint64_t ok)
{
    state->moving[uid] = state->keep * state->moving[uid] + contribution;
    state->successes[uid] += (int64_t)ok;
    state->failures[uid] += (int64_t)(1 - ok);
    state->seen[uid] = state->events;
}

/* Whether an entry is of a uid that is not here, or not of the hotkey that the state has for it, or of none that counts. */
INLINE uint64_t has_strange(const State *state, const Entries *entries)
{
    const uint64_t *counted = state->counted;
    uint64_t strange = 0;
    uint16_t last = 0;
    for (int64_t i = 0; i < entries->n; i++)
        last = entries->uids[i] > last ? entries->uids[i] : last;
    if (last >= state->size)
        return 1;
    for (int64_t i = 0; i < entries->n; i++) {
        uint64_t uid = entries->uids[i], hotkey = entries->hotkeys[i];
        strange |= (hotkey ^ counted[uid]) | (hotkey == 0);
    }
    return strange;
}

/* Add entries that all count. */
INLINE void count_all(State *state, const Entries *entries)
{
    double *restrict moving = state->moving;
    int64_t *restrict successes = state->successes, *restrict failures = state->failures, *restrict seen = state->seen;
    double keep = state->keep;
    int64_t events = state->events;
    for (int64_t i = 0; i < entries->n; i++) {
        uint64_t uid = entries->uids[i];
        int64_t ok = (int64_t)entries->ok[i];
        moving[uid] = keep * moving[uid] + entries->x[i];
        successes[uid] += ok;
        failures[uid] += 1 - ok;
        seen[uid] = events;
    }
}

/* Add one event whose x are contributions. Changes nothing unless it gives APPLIED. */
INLINE int apply(State *state, const Entries *entries)
{
    const uint16_t *uids = entries->uids;
    const uint64_t *hotkeys = entries->hotkeys;
    int64_t n = entries->n;
    uint64_t strange = has_strange(state, entries);
    if (strange && !state->retired)
        return NEEDS_RETIRED;
    if (strange)
        for (int64_t i = 0; i < n; i++)
            if (uids[i] >= state->size && hotkeys[i] && !is_retired(state, uids[i], hotkeys[i]))
                return ODD; /* the state has to grow */
    state->events++;
    if (entries->event.time_ms > state->scored_ms)
        state->scored_ms = entries->event.time_ms;
    if (!strange) {
        count_all(state, entries);
        return APPLIED;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t uid = uids[i];
        if (!hotkeys[i] || uid >= state->size || state->excluded[uid])
            continue;
        if (hotkeys[i] != state->digests[uid]) {
            if (is_retired(state, uid, hotkeys[i]))
                continue;
            state->moving[uid] = 0.0;
            state->digests[uid] = state->counted[uid] = hotkeys[i];
            state->successes[uid] = state->failures[uid] = 0;
            state->reset_blocks[uid] = entries->event.block;
        }
        count(state, uid, entries->x[i], entries->ok[i]);
    }
    return APPLIED;
}

INLINE int64_t fold(
    State *state, const uint8_t *data, const int64_t *spans, int64_t first, int64_t until, int64_t *reason)
{
    Entries group[GROUP];
    int64_t places[GROUP];
    while (first < until) {
        /* The contributions of some events, which depend on the events alone; then what they change, in order. */
        int events = 0, done, stop = APPLIED;
        while (events < GROUP && first < until) {
            stop = prepare(&group[events], data + spans[4 * first + 2], data + spans[4 * first + 3], state->rule);
            if (stop == ODD)
                break;
            if (stop == READY)
                places[events++] = first;
            first++;
        }
        done = state->rule == SHRUNK_Z ? shrunk_z(group, events)
                                       : softmax(group, events, state->temperature, state->share);
        for (int g = 0; g < done; g++) {
            *reason = apply(state, &group[g]);
            if (*reason != APPLIED)
                return places[g];
        }
        *reason = ODD;
        if (done < events)
            return places[done];
        if (stop == ODD)
            return first;
    }
    *reason = APPLIED;
    return first;
}

/* The same operations, wider where the processor is: no rounding differs. */
static int64_t fold_plain(
    State *state, const uint8_t *data, const int64_t *spans, int64_t first, int64_t until, int64_t *reason)
{
    return fold(state, data, spans, first, until, reason);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static int64_t fold_avx2(
    State *state, const uint8_t *data, const int64_t *spans, int64_t first, int64_t until, int64_t *reason)
{
    return fold(state, data, spans, first, until, reason);
}

#if !defined(__clang__)
#define WIDEST "avx2,avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512"
#else
#define WIDEST "avx2,avx512f,avx512dq,avx512vl,avx512bw"
#endif

__attribute__((target(WIDEST))) static int64_t fold_avx512(
    State *state, const uint8_t *data, const int64_t *spans, int64_t first, int64_t until, int64_t *reason)
{
    return fold(state, data, spans, first, until, reason);
}
#endif

/* Fold events `first` to `until` of a page: `spans` [until][4] tells in its last two columns where each lies in `data`.
 * Gives the first that was not folded, and why in `reason`. */
EXPORT int64_t coremesh_fold(
    State *state, const uint8_t *data, const int64_t *spans, int64_t first, int64_t until, int64_t *reason)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512bw"))
        return fold_avx512(state, data, spans, first, until, reason);
    if (__builtin_cpu_supports("avx2"))
        return fold_avx2(state, data, spans, first, until, reason);
#endif
    return fold_plain(state, data, spans, first, until, reason);
}

/* Fold events from the front of a page until one that has to be folded elsewhere; see page.Taker. */
EXPORT int64_t coremesh_take(State *state, const uint8_t *data, const int64_t *spans, int64_t count)
{
    int64_t reason;
    return coremesh_fold(state, data, spans, 0, count, &reason);
}

/* Of the interface: a library of another is not used. */
EXPORT int64_t coremesh_fold_version(void)
{
    return VERSION;
}
