-- Swaps. KEYS: the records. ARGV, for each: now ('' asks the server), the stamp expected ('' for none), room ('none' where
-- the server has none), the stamp to put ('' for none), and of what is put: retention, trims, phase, length of the whole
-- record, the whole record and what is left of it (all '' for none); last of all, until when it may run, by the server's
-- clock. Answers 'done', 'absent', 'full', or { age, stamp, record }.

return each(function(key, at)
  -- Whoever asked has given up, and may have undone what another copy of this did: a claim now would be nobody's.
  if server_ms > tonumber(ARGV[at + 9]) then
    return redis.error_reply('LATE it comes after its time')
  end
  local expect, put = ARGV[at + 1], ARGV[at + 3]
  local now = ARGV[at] == '' and server_ms or tonumber(ARGV[at])
  local stamp, written, retention, trims, _, whole = head_at(key)
  if stamp == false then
    return written
  end
  local age = stamp and math.max(0, now - written)
  -- The time decides, not the presence: the server's own expiry may lag.
  local lives = stamp and age < retention
  local there = lives and stamp or ''

  if put ~= '' and there == put then
    -- Written again as it is: who asks for copies waits for those of this write, and may have reconnected since the first.
    redis.call('SETRANGE', key, 0, 's1')
    return 'done'
  end
  if there ~= expect then
    if not lives then
      return 'absent'
    end
    if age < trims then
      return { age, there, redis.call('GETRANGE', key, HEAD, HEAD + whole - 1) }
    end
    return { age, there, redis.call('GETRANGE', key, HEAD + whole, -1) }
  end
  if put == '' then
    if lives then
      redis.call('DEL', key)
    end
    return 'done'
  end
  if ARGV[at + 2] == 'none' and not lives then
    return 'full'
  end
  local kept = tonumber(ARGV[at + 4])
  local value = head_of(put, now, kept, tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]))
    .. ARGV[at + 8]
  if ARGV[at] == '' then
    redis.call('SET', key, value, 'PXAT', now + kept)
  else
    redis.call('SET', key, value)
  end
  return 'done'
end)
