-- Admission over several machines: the same windows and counts as router/limits.py, kept in Redis.
--
--   llmrouter:replicas   sorted set: replica -> when its lease ends
--   llmrouter:clock      hash: wall (Redis' TIME), steady (a time that only goes on)
--   llmrouter:busy       set: subjects that have anything below, so that a question about many is cheap
--   llmrouter:a:SUBJECT  hash: replica -> how many of its requests run there
--   llmrouter:w:SUBJECT  sorted set: entry -> when it was admitted
--   llmrouter:t:SUBJECT  hash: entry -> its tokens; "sum" -> the sum of them
--
-- Times are microseconds. A subject is limited by {name, concurrency, rpm, tpm}, false for no limit. What a
-- replica holds counts for as long as its lease does, so the places of a dead one come back with that.

local PREFIX = 'llmrouter:'
local MINUTE = 60000000
-- The wall clock of Redis' machine may step. Replicas call every second, so a longer gap is a step (or nobody
-- was there); no step moves the steady time by more than this, and none moves it back.
local MOST_STEP = 3000000
-- Longer than a step of an hour, since Redis itself drops keys by the wall clock.
local KEPT_MS = 7200000
local KEPT_ACTIVE_MS = 86400000
-- No call looks at more entries than this: what is left counts until the next one, so never too few do.
local MOST = 1000
local LOOKED_AFTER = 20

local function steady()
  local t = redis.call('TIME')
  local wall = t[1] * 1000000 + t[2]
  local known = redis.call('HMGET', PREFIX .. 'clock', 'wall', 'steady')
  local now = wall
  if known[1] and known[2] then
    now = known[2] + math.min(math.max(wall - known[1], 0), MOST_STEP)
  end
  redis.call('HSET', PREFIX .. 'clock', 'wall', wall, 'steady', now)
  return now
end

local function leases(now)
  local found = {}
  for _, replica in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'replicas', now, '+inf')) do
    found[replica] = true
  end
  return found
end

local function running(subject, alive)
  local key, total = PREFIX .. 'a:' .. subject, 0
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if alive[all[i]] then
      total = total + all[i + 1]
    else
      redis.call('HDEL', key, all[i])
    end
  end
  return total
end

local function expire(subject, now)
  local window, tokens = PREFIX .. 'w:' .. subject, PREFIX .. 't:' .. subject
  local old = redis.call('ZRANGEBYSCORE', window, '-inf', now - MINUTE, 'LIMIT', 0, MOST)
  if #old == 0 then
    return
  end
  local gone = 0
  for _, n in ipairs(redis.call('HMGET', tokens, unpack(old))) do
    gone = gone + (n or 0)
  end
  redis.call('ZREM', window, unpack(old))
  redis.call('HDEL', tokens, unpack(old))
  redis.call('HINCRBY', tokens, 'sum', -gone)
end

local function sum_of(subject)
  return tonumber(redis.call('HGET', PREFIX .. 't:' .. subject, 'sum') or '0')
end

-- Return how long it takes until so many tokens have left the window.
local function leaves_in(subject, excess, now)
  local window, at = PREFIX .. 'w:' .. subject, now - MINUTE
  for from = 0, MOST - 1, 100 do
    local some = redis.call('ZRANGE', window, from, from + 99, 'WITHSCORES')
    for i = 1, #some, 2 do
      at = tonumber(some[i + 1])
      excess = excess - (redis.call('HGET', PREFIX .. 't:' .. subject, some[i]) or 0)
      if excess <= 0 then
        return at + MINUTE - now
      end
    end
    if #some < 200 then
      break
    end
  end
  return at + MINUTE - now
end

-- Return (how long it is full, the limit that opens last), nil where it is not.
local function full(limit, tokens, now, alive)
  local subject, concurrency, rpm, tpm = limit[1], limit[2], limit[3], limit[4]
  local wait, word = nil, nil
  local function reached(left, name)
    if not wait or left > wait then
      wait, word = left, name
    end
  end
  if concurrency and running(subject, alive) >= concurrency then
    reached(1000000, 'concurrency')
  end
  if rpm or tpm then
    expire(subject, now)
    local window = PREFIX .. 'w:' .. subject
    if rpm and redis.call('ZCOUNT', window, string.format('(%.0f', now - MINUTE), '+inf') >= rpm then
      reached(redis.call('ZRANGE', window, -rpm, -rpm, 'WITHSCORES')[2] + MINUTE - now, 'rpm')
    end
    local sum = tpm and sum_of(subject) or 0
    if sum > 0 and sum + math.min(tokens, tpm) > tpm then
      reached(leaves_in(subject, sum + math.min(tokens, tpm) - tpm, now), 'tpm')
    end
  end
  return wait, word
end

local function add(subject, entry, at, tokens)
  local window, kept = PREFIX .. 'w:' .. subject, PREFIX .. 't:' .. subject
  local before = redis.call('HGET', kept, entry) or 0
  redis.call('ZADD', window, at, entry)
  redis.call('HSET', kept, entry, tokens)
  redis.call('HINCRBY', kept, 'sum', tokens - before)
  redis.call('PEXPIRE', window, KEPT_MS)
  redis.call('PEXPIRE', kept, KEPT_MS)
end

local function run(subject, replica, count)
  local key = PREFIX .. 'a:' .. subject
  if redis.call('HINCRBY', key, replica, count) <= 0 then
    redis.call('HDEL', key, replica)
  end
  redis.call('PEXPIRE', key, KEPT_ACTIVE_MS)
end

local function mark(subject)
  redis.call('SADD', PREFIX .. 'busy', subject)
  redis.call('PEXPIRE', PREFIX .. 'busy', KEPT_ACTIVE_MS)
end

-- Forget some of the subjects at which nothing runs or counts any more.
local function look_after(now)
  local some = redis.call('SRANDMEMBER', PREFIX .. 'busy', LOOKED_AFTER)
  for _, subject in ipairs(some) do
    expire(subject, now)
    if redis.call('EXISTS', PREFIX .. 'a:' .. subject, PREFIX .. 'w:' .. subject) == 0 then
      redis.call('SREM', PREFIX .. 'busy', subject)
      redis.call('DEL', PREFIX .. 't:' .. subject)
    end
  end
end

-- Return {how many the minute admitted, their tokens, how long until all have left it}, once it is expired.
local function standing(subject, now)
  local window = PREFIX .. 'w:' .. subject
  local newest = redis.call('ZRANGE', window, -1, -1, 'WITHSCORES')[2]
  return {redis.call('ZCARD', window), sum_of(subject), newest and newest + MINUTE - now or 0}
end

local deeds = {}

-- tokens, limits -> {{number, word, wait}, ...} of those that are full
function deeds.ask(tokens, limits)
  local now = steady()
  local found, names = {}, {}
  limits = cmsgpack.unpack(limits)
  for i, limit in ipairs(limits) do
    names[i] = limit[1]
  end
  local alive
  for from = 1, #names, MOST do
    local upto = math.min(from + MOST - 1, #names)
    local busy = redis.call('SMISMEMBER', PREFIX .. 'busy', unpack(names, from, upto))
    for i, is in ipairs(busy) do
      if is == 1 then
        alive = alive or leases(now)
        local wait, word = full(limits[from + i - 1], tonumber(tokens), now, alive)
        if wait then
          found[#found + 1] = {from + i - 2, word, wait}
        end
      end
    end
  end
  return found
end

-- replica, entry, tokens, limits -> {state, word, wait, count, sum, reset} of the first; state: 1 in, 0 full,
-- -1 the replica has no lease
function deeds.enter(replica, entry, tokens, limits)
  local now = steady()
  local alive = leases(now)
  if not alive[replica] then
    return {-1, '', 0, 0, 0, 0}
  end
  tokens, limits = tonumber(tokens), cmsgpack.unpack(limits)
  local longest, why = nil, ''
  for _, limit in ipairs(limits) do
    local wait, word = full(limit, tokens, now, alive)
    if wait and (not longest or wait > longest) then
      longest, why = wait, word
    end
  end
  if not longest then
    for _, limit in ipairs(limits) do
      mark(limit[1])
      run(limit[1], replica, 1)
      if limit[3] or limit[4] then
        add(limit[1], entry, now, tokens)
      end
    end
  end
  local first = limits[1]
  if not (first[3] or first[4]) then
    return {longest and 0 or 1, why, longest or 0, 0, 0, 0}
  end
  return {longest and 0 or 1, why, longest or 0, unpack(standing(first[1], now))}
end

-- subject -> {count, sum, reset}
function deeds.look(subject)
  local now = steady()
  expire(subject, now)
  return standing(subject, now)
end

-- replica, entry, used tokens (-1: as estimated, -2: withdrawn), names
function deeds.leave(replica, entry, used, names)
  used = tonumber(used)
  for _, subject in ipairs(cmsgpack.unpack(names)) do
    run(subject, replica, -1)
    local kept = PREFIX .. 't:' .. subject
    local before = redis.call('HGET', kept, entry)
    if before and used == -2 then
      redis.call('ZREM', PREFIX .. 'w:' .. subject, entry)
      redis.call('HDEL', kept, entry)
      redis.call('HINCRBY', kept, 'sum', -before)
    elseif before and used >= 0 then
      redis.call('HSET', kept, entry, used)
      redis.call('HINCRBY', kept, 'sum', used - before)
    end
  end
  return 1
end

-- replica, lease -> {whether it still had one, replicas}
function deeds.beat(replica, lease)
  local now = steady()
  local key = PREFIX .. 'replicas'
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%.0f', now))
  local had = redis.call('ZSCORE', key, replica) and 1 or 0
  if had == 1 then
    redis.call('ZADD', key, now + lease, replica)
  end
  look_after(now)
  return {had, redis.call('ZCARD', key)}
end

-- replica, the one that it was before, lease, what runs and was admitted -> replicas
-- {{subject, running, {{entry, age, tokens}, ...}}, ...}
function deeds.join(replica, before, lease, held)
  local now = steady()
  local key = PREFIX .. 'replicas'
  redis.call('ZREM', key, before)
  redis.call('ZADD', key, now + lease, replica)
  for _, subject in ipairs(cmsgpack.unpack(held)) do
    mark(subject[1])
    if subject[2] > 0 then
      run(subject[1], replica, subject[2])
    end
    for _, entry in ipairs(subject[3]) do
      add(subject[1], entry[1], now - entry[2], entry[3])
    end
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%.0f', now))
  return redis.call('ZCARD', key)
end

function deeds.part(replica)
  return redis.call('ZREM', PREFIX .. 'replicas', replica)
end

return deeds[ARGV[1]](unpack(ARGV, 2))
