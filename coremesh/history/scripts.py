"""The Lua scripts: what must happen in one step or not at all."""

from __future__ import annotations

APPEND = """
-- KEYS events transcripts seen hotkeys announced; ARGV id packed transcript transcripts_kept seen_ttl_s
-- digest,hotkey...
local place = redis.call('HGET', KEYS[3], ARGV[1])
if place then
  -- What is sent again may be sent once more: it is remembered from now on.
  redis.call('EXPIRE', KEYS[3], ARGV[5])
  return {place, 0}
end
place = redis.call('XADD', KEYS[1], '*', 'e', ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1], place)
redis.call('EXPIRE', KEYS[3], ARGV[5])
if ARGV[3] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'i', ARGV[1], 't', ARGV[3])
end
-- By the clock of the places: no hotkey is announced before the event that it came with.
local now = string.match(place, '^%d+')
for i = 6, #ARGV, 2 do
  redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1])
  redis.call('ZADD', KEYS[5], 'GT', now, ARGV[i])
end
return {place, 1}
"""

PUBLISH = """
-- KEYS metagraph events seen hotkeys fence announced; ARGV token snapshot id packed seen_ttl_s digest,hotkey...
if redis.call('GET', KEYS[5]) ~= ARGV[1] then return redis.error_reply('LEASELOST') end
local place = false
if ARGV[3] ~= '' then
  place = redis.call('HGET', KEYS[3], ARGV[3])
  if not place then
    place = redis.call('XADD', KEYS[2], '*', 'e', ARGV[4])
    redis.call('HSET', KEYS[3], ARGV[3], place)
    redis.call('EXPIRE', KEYS[3], ARGV[5])
  end
end
redis.call('SET', KEYS[1], ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for i = 6, #ARGV, 2 do
  redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1])
  redis.call('ZADD', KEYS[6], 'GT', now, ARGV[i])
end
return place
"""

ANNOUNCE = """
-- KEYS hotkeys announced; ARGV condition digest...
-- Hotkeys that are there are wanted now (condition GT), or since when is not known (NX). Gives the time.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then redis.call('ZADD', KEYS[2], ARGV[1], now, ARGV[i]) end
end
return now
"""

FORGET = """
-- KEYS events hotkeys announced; ARGV now_ms margin_ms most
-- What was last announced this long before the oldest event is behind no event any more.
local before = tonumber(ARGV[1])
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if oldest[1] then before = math.min(before, tonumber(string.match(oldest[1][1], '^%d+'))) end
before = before - ARGV[2]
local gone = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('(%.0f', before), 'LIMIT', 0, ARGV[3])
if #gone == 0 then return 0 end
redis.call('HDEL', KEYS[2], unpack(gone))
redis.call('ZREM', KEYS[3], unpack(gone))
return #gone
"""

# A server that was restarted, or a replica that took its place, may lack events that were read before. Where INFO is
# not to be had, all servers are one.
_SERVER = """
local function server()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end
"""

SAVE = (
    _SERVER
    + """
-- KEYS checkpoint fence; ARGV token expected last_id state format time_ms server
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('LEASELOST') end
if server() ~= ARGV[7] then return redis.error_reply('OTHERSERVER') end
local at = redis.call('HGET', KEYS[1], 'last_id') or '0-0'
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if at ~= ARGV[2] then
  -- The same write again, after an answer that got lost.
  if at == ARGV[3] and redis.call('HGET', KEYS[1], 'token') == ARGV[1]
     and redis.call('HGET', KEYS[1], 'state') == ARGV[4] then return version end
  return redis.error_reply('LEASELOST')
end
redis.call('HSET', KEYS[1], 'last_id', ARGV[3], 'state', ARGV[4], 'format', ARGV[5], 'time_ms', ARGV[6],
  'token', ARGV[1], 'version', version + 1)
return version + 1
"""
)

ACQUIRE = (
    _SERVER
    + """
-- KEYS lease fence; ARGV holder ttl_ms
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if holder then return {redis.call('GET', KEYS[2]), server()} end
return {tostring(redis.call('INCR', KEYS[2])), server()}
"""
)

RENEW = """
-- KEYS lease fence; ARGV holder ttl_ms token
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[3] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

RELEASE = """
-- KEYS lease; ARGV holder
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

SUBMIT = """
-- KEYS submissions fence; ARGV token packed kept
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('LEASELOST') end
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 's', ARGV[2])
"""

TRIM = """
-- KEYS events trimmed checkpoint...; ARGV keep most
local function before(a, b)
  local am, an = string.match(a, '(%d+)-(%d+)')
  local bm, bn = string.match(b, '(%d+)-(%d+)')
  am, an, bm, bn = tonumber(am), tonumber(an), tonumber(bm), tonumber(bn)
  return am < bm or (am == bm and an < bn)
end
local excess = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[1])
if excess <= 0 then return 0 end
local slowest = nil
for i = 3, #KEYS do
  local at = redis.call('HGET', KEYS[i], 'last_id')
  if not at then return 0 end
  if not slowest or before(at, slowest) then slowest = at end
end
local drop = redis.call('XRANGE', KEYS[1], '-', slowest or '+', 'COUNT', math.min(excess, tonumber(ARGV[2])))
local n = #drop
if n == 0 then return 0 end
local last = drop[n][1]
local ids = {}
for i = 1, n do ids[i] = drop[i][1] end
for i = 1, n, 1000 do redis.call('XDEL', KEYS[1], unpack(ids, i, math.min(i + 999, n))) end
redis.call('SET', KEYS[2], last)
return n
"""

REPLACE_CALLER = """
-- KEYS callers; ARGV id old new
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

ADMIT = """
-- KEYS callers asked held; ARGV id record ticket per_minute concurrent held_ms
-- The clock is Redis's own, so that replicas need not agree on the time. A repeated call changes nothing.
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {'changed', 0} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local per_minute, concurrent = tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60000)
if concurrent > 0 and not redis.call('ZSCORE', KEYS[3], ARGV[3])
   and redis.call('ZCARD', KEYS[3]) >= concurrent then return {'concurrent', 0} end
if per_minute > 0 and not redis.call('ZSCORE', KEYS[2], ARGV[3]) then
  local asked = redis.call('ZCARD', KEYS[2])
  if asked >= per_minute then
    local leaves = redis.call('ZRANGE', KEYS[2], asked - per_minute, asked - per_minute, 'WITHSCORES')
    return {'rate', tonumber(leaves[2]) + 60000 - now}
  end
  redis.call('ZADD', KEYS[2], now, ARGV[3])
  redis.call('PEXPIRE', KEYS[2], 60000)
end
if concurrent > 0 then
  redis.call('ZADD', KEYS[3], now + ARGV[6], ARGV[3])
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
return {'ok', 0}
"""

HOLD = """
-- KEYS held; ARGV held_ms ticket...; a place that lapsed is taken again, over the limit if need be: it is in use
local clock = redis.call('TIME')
local lapses = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[1]
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], lapses, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""
