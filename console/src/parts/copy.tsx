import { useRef, useState } from 'react'

/** A text to take along, with a button that does. */
export function Copy({ text, label }: { text: string; label: string }) {
  const place = useRef<HTMLElement>(null)
  const [said, say] = useState('')
  const copy = async () => {
    // Browsers have a clipboard at https and at localhost only, and may refuse it.
    try {
      await navigator.clipboard.writeText(text)
      say('Copied')
    } catch (error) {
      getSelection()?.selectAllChildren(place.current!)
      say(error instanceof Error ? 'Marked: copy it with Ctrl+C' : '')
    }
  }
  return (
    <span className="copy">
      <code ref={place}>{text}</code>
      <button type="button" onClick={() => void copy()} aria-label={`Copy ${label}`}>
        Copy
      </button>
      <span className="quiet" role="status">
        {said}
      </span>
    </span>
  )
}
