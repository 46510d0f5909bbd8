/** What became of a copy of a request, beside the answer that the client got; `alone`: the client got none. */
export type ShadowOutcome = 'same' | 'different' | 'alone' | 'failed' | 'skipped'
