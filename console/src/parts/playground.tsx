import { type FormEvent, useEffect, useRef, useState } from 'react'
import { messageOf, UserError } from '../../../src/base/errors.ts'
import { type Answering, answerTo, type ChatMessage } from '../answers.ts'
import { Problem } from './problem.tsx'

interface Shown {
  readonly project: string
  readonly deployment: string
  /** Whoever asks needs a key. */
  readonly needsKey: boolean
}

/** Asks a deployment as any program would, over the same address. */
export function Playground(of: Shown) {
  const [form, setForm] = useState<'completion' | 'chat'>('completion')
  return (
    <section className="playground">
      <div className="row">
        <label className="check">
          <input type="radio" checked={form === 'completion'} onChange={() => setForm('completion')} />
          Go on with a text
        </label>
        <label className="check">
          <input type="radio" checked={form === 'chat'} onChange={() => setForm('chat')} />
          Chat
        </label>
      </div>
      {form === 'completion' ? <Completion {...of} /> : <Chat {...of} />}
    </section>
  )
}

interface Sampling {
  readonly temperature: number
  readonly maxTokens: number
}

const samplingDefault: Sampling = { temperature: 0.8, maxTokens: 128 }

function SamplingFields({ value, onChange }: { value: Sampling; onChange(value: Sampling): void }) {
  return (
    <>
      <label>
        Temperature
        <input
          type="number"
          min={0}
          max={2}
          step={0.1}
          value={value.temperature}
          onChange={({ target }) => onChange({ ...value, temperature: target.valueAsNumber || 0 })}
        />
      </label>
      <label>
        Tokens at most
        <input
          type="number"
          min={1}
          max={100_000}
          value={value.maxTokens}
          onChange={({ target }) => onChange({ ...value, maxTokens: target.valueAsNumber || 1 })}
        />
      </label>
    </>
  )
}

function Completion(of: Shown) {
  const [prompt, setPrompt] = useState('')
  const [sampling, setSampling] = useState(samplingDefault)
  const answer = useAnswering()
  const send = (event: FormEvent) => {
    event.preventDefault()
    answer.ask(of, { prompt, ...sampling })
  }
  return (
    <form onSubmit={send}>
      <textarea
        aria-label="Prompt"
        rows={4}
        value={prompt}
        required
        placeholder="The beginning of a text"
        onChange={({ target }) => setPrompt(target.value)}
      />
      <div className="row">
        <SamplingFields value={sampling} onChange={setSampling} />
        <SendOrStop answer={answer} verb="Go on" />
      </div>
      <Problem error={answer.error} />
      {answer.text !== '' && (
        <output className="answer">
          <span className="quiet">{answer.prompt}</span>
          {answer.text}
        </output>
      )}
      <Pace answer={answer} />
    </form>
  )
}

function Chat(of: Shown) {
  const [messages, setMessages] = useState<readonly ChatMessage[]>([])
  const [typed, setTyped] = useState('')
  const [sampling, setSampling] = useState(samplingDefault)
  const answer = useAnswering()
  const send = (event: FormEvent) => {
    event.preventDefault()
    const asked: ChatMessage[] = [...messages, { role: 'user', content: typed }]
    setMessages(asked)
    setTyped('')
    answer.ask(of, { messages: asked, ...sampling }, (content) =>
      setMessages([...asked, { role: 'assistant', content }]),
    )
  }
  return (
    <form onSubmit={send}>
      <div className="chat" role="log">
        {messages.map(({ role, content }, at) => (
          <p key={at} className={role}>
            {content}
          </p>
        ))}
        {answer.isRunning && <p className="assistant">{answer.text || '...'}</p>}
      </div>
      <textarea
        aria-label="Message"
        rows={2}
        value={typed}
        required
        placeholder="Say something"
        onChange={({ target }) => setTyped(target.value)}
      />
      <div className="row">
        <SamplingFields value={sampling} onChange={setSampling} />
        <SendOrStop answer={answer} verb="Send" />
        {messages.length > 0 && !answer.isRunning && (
          <button type="button" onClick={() => setMessages([])}>
            Begin anew
          </button>
        )}
      </div>
      <Problem error={answer.error} />
      <Pace answer={answer} />
    </form>
  )
}

function SendOrStop({ answer, verb }: { answer: AnsweringNow; verb: string }) {
  return answer.isRunning ? (
    <button type="button" onClick={answer.stop}>
      Stop
    </button>
  ) : (
    <button type="submit" className="main">
      {verb}
    </button>
  )
}

function Pace({ answer: { firstMs, tokens, perSecond } }: { answer: AnsweringNow }) {
  if (firstMs === undefined) return null
  return (
    <p className="quiet">
      First token after {Math.round(firstMs)} ms
      {perSecond !== undefined && `, then ${perSecond.toFixed(1)} tokens a second (${tokens})`}
    </p>
  )
}

interface AnsweringNow {
  readonly isRunning: boolean
  readonly prompt: string
  readonly text: string
  readonly error: unknown
  readonly firstMs: number | undefined
  readonly tokens: number
  readonly perSecond: number | undefined
  ask(of: Shown, asked: Omit<Answering, 'model'>, done?: (text: string) => void): void
  stop(): void
}

const nothing = {
  ...{ isRunning: false, prompt: '', text: '', error: undefined as unknown },
  ...{ firstMs: undefined as number | undefined, tokens: 0, perSecond: undefined as number | undefined },
}

/** One answer as it comes. It ends with the page. */
function useAnswering(): AnsweringNow {
  const [state, setState] = useState(nothing)
  const running = useRef<AbortController>(undefined)
  useEffect(() => () => running.current?.abort(), [])
  const ask: AnsweringNow['ask'] = (of, asked, done) => {
    const stop = new AbortController()
    running.current = stop
    setState({ ...nothing, isRunning: true, prompt: asked.prompt ?? '' })
    const read = async () => {
      const started = performance.now()
      let text = ''
      let firstMs: number | undefined
      let tokens = 0
      try {
        for await (const piece of answerTo(of, { ...asked, model: of.deployment }, stop.signal)) {
          firstMs ??= performance.now() - started
          text += piece.text
          tokens = piece.tokens ?? tokens + 1
          const seconds = (performance.now() - started - firstMs) / 1000
          const perSecond = tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : undefined
          setState((now) => ({ ...now, text, firstMs, tokens, perSecond }))
        }
      } catch (error) {
        if (!stop.signal.aborted) setState((now) => ({ ...now, error: told(error) }))
      }
      setState((now) => ({ ...now, isRunning: false }))
      done?.(text)
    }
    void read()
  }
  return { ...state, ask, stop: () => running.current?.abort() }
}

function told(error: unknown): unknown {
  if (error instanceof UserError) return error
  return new UserError(messageOf(error))
}
