/** What is found in an answer beside its text. */

/** A call as the model wrote it: `arguments` is JSON in the model's own words. */
export interface WrittenCall {
  name: string
  arguments: string
}

/** What is certain after a piece of text. */
export interface Found {
  text: string
  calls: readonly WrittenCall[]
}

/** Reads one answer as it comes. */
export interface AnswerReader {
  /** Nothing waits for what comes next. */
  readonly isClear: boolean
  push(text: string): Found
  /** The end of the answer: what is held is decided now. */
  flush(): Found
}
