-- Swaps. KEYS: the records. ARGV, for each:
--   1. what is asked, in bytes: now (8; zero asks the server), whether a stamp is expected, one is put, and there is no room
--      (1 each), the stamp expected and the stamp to put (18 each, zeros for none), and of what is put the end of its head:
--      retention, trims, phase and length of the whole record (21, zeros for none);
--   2. the whole record and what is left of it, one after the other;
--   3. until when it may run, by the server's clock (8 bytes).
-- Answers 'done', 'absent', 'full', or { age, stamp, record }.

local TAIL = 8 + 3 + 18 + 18 + 1

return each(function(key, at)
  -- Whoever asked has given up, and may have undone what another copy of this did: a claim now would be nobody's.
  if server_ms > struct.unpack('>I8', ARGV[at + 2]) then
    return redis.error_reply('LATE it comes after its time')
  end
  local given, expects, puts, roomless, expect, put = struct.unpack('>I8BBBc18c18', ARGV[at])
  local now = given == 0 and server_ms or given
  local stamp, written, retention, trims, _, whole = head_at(key)
  if stamp == false then
    return written
  end
  local age = stamp and math.max(0, now - written)
  -- The time decides, not the presence: the server's own expiry may lag.
  local lives = stamp and age < retention

  if puts == 1 and lives and stamp == put then
    -- Written again as it is: who asks for copies waits for those of this write, and may have reconnected since the first.
    redis.call('SETRANGE', key, 0, 's1')
    return 'done'
  end
  if not lives and expects == 1 then
    return 'absent'
  end
  if lives and (expects == 0 or stamp ~= expect) then
    if age < trims then
      return { age, stamp, redis.call('GETRANGE', key, HEAD, HEAD + whole - 1) }
    end
    return { age, stamp, redis.call('GETRANGE', key, HEAD + whole, -1) }
  end
  if puts == 0 then
    if lives then
      redis.call('DEL', key)
    end
    return 'done'
  end
  if roomless == 1 and not lives then
    return 'full'
  end
  local value = head_of(put, now, string.sub(ARGV[at], TAIL)) .. ARGV[at + 1]
  if given == 0 then
    -- As text: numbers are turned into it with all their places.
    redis.call('SET', key, value, 'PXAT', string.format('%d', now + struct.unpack('>I8', ARGV[at], TAIL)))
  else
    redis.call('SET', key, value)
  end
  return 'done'
end)
