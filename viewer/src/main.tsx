/** The page: what the address asks for, over the one source of data. */
import { render } from 'preact'
import { useEffect, useErrorBoundary } from 'preact/hooks'
import { Compare } from './pages/compare'
import { RunPage } from './pages/run'
import { Runs } from './pages/runs'
import { Notice } from './parts/text'
import { href, useRoute } from './route'
import { open, type Source } from './source'
import { useKept } from './use'
import './style.css'

const THEMES = ['system', 'light', 'dark']

function App({ source, only }: { source: Source; only: string }) {
  const route = useRoute()
  const [theme, setTheme] = useKept('theme', 'system')
  const [failed, again] = useErrorBoundary()
  useEffect(() => {
    document.documentElement.dataset.theme = theme
  }, [theme])
  const [page = only ? 'run' : '', id = only] = route
  return (
    <>
      <header class="top">
        <a class="brand" href={source.served ? href() : href('run', only)}>
          <Mark /> recursor
        </a>
        <span class="grow" />
        <button class="ghost" onClick={() => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % 3])} title="Light, dark, or as the system has it">
          {theme}
        </button>
      </header>
      <main>
        {failed ? (
          <Notice kind="error" title="The page failed">
            <p>{String(failed)}</p>
            <button onClick={again}>Try again</button>
          </Notice>
        ) : page === 'run' && id ? (
          <RunPage key={id} source={source} id={id} rest={route.slice(2)} />
        ) : page === 'compare' ? (
          <Compare source={source} left={route[1] ?? ''} right={route[2] ?? ''} />
        ) : (
          <Runs source={source} />
        )}
      </main>
    </>
  )
}

/** A ring within a ring. */
function Mark() {
  return (
    <svg width="18" height="18" viewBox="0 0 18 18" aria-hidden="true">
      <circle cx="9" cy="9" r="7.5" fill="none" stroke="currentColor" stroke-width="1.8" stroke-dasharray="38 9" />
      <circle cx="9" cy="9" r="3.6" fill="none" stroke="currentColor" stroke-width="1.8" stroke-dasharray="17 5.6" />
    </svg>
  )
}

const root = document.getElementById('app') as HTMLElement
open().then(
  async (source) => {
    const only = source.served ? '' : (await source.runs({})).runs[0].id
    render(<App source={source} only={only} />, root)
  },
  (error) => render(<Notice kind="error" title="This file is damaged">{String(error)}</Notice>, root),
)
