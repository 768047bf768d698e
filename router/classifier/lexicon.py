"""Words of one meaning in many languages: what the corpus says in English then holds elsewhere too.

Each entry of the table is a concept, a colon and the words that mean it; indented lines go on with it. A
word of a spaced script is met by a token that begins with its first `STEM` characters (so inflections are
met as well); a word shorter than that is met whole. Words of scripts without spaces, and Korean and Thai,
are looked for inside the text.
"""

from __future__ import annotations

import re

STEM = 6

_TABLE = """
code: code coding codes kod kodu kodie código codice koodi kód код кода коде коду κώδικα κώδικας
  كود الكود शिफर कोड কোড קוד کد mã 代码 程式碼 コード 코드 โค้ด
program: program programs programa programme programm programma программа программу программы
  प्रोग्राम برنامج برنامه chương 程序 程式 プログラム 프로그램 โปรแกรม
function: function functions funktion funkcja funkcję función fonction função funzione functie
  fonksiyon funkce függvény funktio funcție funcția функция функцию функции функція συνάρτηση دالة
  تابع फ़ंक्शन फंक्शन ফাংশন פונקציה hàm fungsi 函数 函式 関数 함수 ฟังก์ชัน
script: script scripts skript skrypt betik скрипт скриптом σκριπτ سكريبت اسكربت स्क्रिप्ट סקריפט
  اسکریپت kịch 脚本 スクリプト 스크립트 สคริปต์
class: class classes klasse klasa clase classe sınıf класс класса κλάση فئة क्लास মেথড method
  methode método metod метод метода メソッド クラス 클래스 메서드 方法 类 类型
bug: bug bugs bugfix fehler błąd błędu erreur errore erro error errors fout hata chyba hiba virhe
  eroare ошибка ошибку ошибки помилка σφάλμα خطأ त्रुटि এরর ত্রুটি שגיאה خطا lỗi galat 错误 报错
  エラー バグ 오류 에러 버그 ข้อผิดพลาด
crash: crash crashes crashed crasht exception traceback segfault absturz abstürzt plante
  stacktrace падает вылетает крашится çöküyor 崩溃 闪退 例外 落ちる クラッシュ 크래시
test: unittest pytest jest tests testfall testcases юнит тесты 单元测试 测试用例 ユニットテスト
  テストコード 테스트 코드
repo: repository repo repos commit commits merge rebase branch github gitlab git репозиторий
  коммит ветку 仓库 提交 分支 リポジトリ コミット ブランチ 저장소 커밋 브랜치
refactor: refactor refactoring refaktor refaktorisiere refactoriser refactoriza refatore
  рефакторинг отрефактори 重构 リファクタリング 리팩터링 리팩토링
debug: debug debugge debugging debuggen depurar déboguer отладить отладка 调试 デバッグ 디버그
  디버깅
implement: implement implementiere implements implementar implémente implémenter implementeer
  implementare zaimplementuj реализуй реализовать напишифункцию uygula 实现 実装 구현
compile: compile compiles compiler compilation kompilier kompiluje компилируется компилятор
  derleme derlenmiyor compila 编译 コンパイル 컴파일
deploy: deploy deployment docker dockerfile kubernetes kubectl helm terraform ansible nginx
  systemd деплой 部署 デプロイ 배포
database: sql postgres postgresql mysql sqlite mongodb redis query queries abfrage requête
  consulta zapytanie sorgu запрос 数据库 查询 クエリ データベース 쿼리 데이터베이스
web: html css javascript typescript react vue angular svelte frontend backend api rest endpoint
  webhook webpack npm tailwind 前端 后端 接口 フロントエンド 프론트엔드
language: python java golang rust kotlin swift ruby php perl scala haskell elixir bash powershell
  lua matlab питон питоне python'da 파이썬 자바 パイソン
data-structure: array arrays list dictionary string strings arreglo matriz cadena liste tableau
  chaîne lista stringa dizi строка строку массив массива список списка mảng chuỗi πίνακα مصفوفة
  सूची 数组 字符串 列表 链表 配列 文字列 リスト 배열 문자열 리스트
regex: regex regexp regulären reguläre regulier expresión expresion 正则 正規表現 정규식
  정규표현식
loop: loop loops schleife boucle bucle ciclo pętla pętlę döngü цикл цикле 循环 ループ 반복문
return: return returns zurückgibt devuelve devuelva renvoie retourne retorna restituisce zwraca
  geeft возвращает возвращающую döndüren döndürür 返回 返す 반환
sort: sort sorting sortiere sortieren trier ordena ordenar ordinare sortuje sırala отсортируй
  сортировка 排序 ソート 정렬
config: config configuration yaml json toml xml konfiguration configuración konfiguracja конфиг
  настрой 配置 設定ファイル 설정
install: install installation pip cargo gradle maven dependency dependencies abhängigkeit
  dépendance dependencia зависимость 依赖 依存 의존성
terminal: terminal shell cli linux ubuntu ssh cron grep sed awk konsole commandline 命令行 终端
  コマンド 명령어
container: container containers pod pods kubernetes k8s podman conteneur contenedor contêiner
  конвейер контейнер контейнера контейнере kontener konteyner 容器 镜像 コンテナ イメージ 컨테이너
  이미지
server: server servers localhost backend hosting deployed serveur servidor servidores serwer
  sunucu сервер сервера сервере διακομιστή خادم السيرفر सर्वर সার্ভার שרת سرور peladen 服务器 伺服器
  サーバー 서버 เซิร์ฟเวอร์
app-ui: app button page screen login logout website click browser safari firefox chrome android
  ios mobile schaltfläche webseite knopf bouton écran botón pantalla página botão tela pulsante
  schermo knop scherm przycisk ekran strona buton sayfa tuş кнопка кнопку экран приложение
  застосунок сайт страница κουμπί οθόνη εφαρμογή زر شاشة التطبيق تطبيق बटन स्क्रीन ऐप অ্যাপ বাটন
  כפתור מסך אפליקציה دکمه برنامه صفحه nút ứng tombol aplikasi layar knappen sidan sovellus
  tlačítko gomb alkalmazás butonul aplicația 按钮 页面 屏幕 ボタン 画面 アプリ 버튼 화면 앱이 ปุ่ม
  แอป
broken: broken freezes frozen hangs fails failing failed failure flaky stuck crashing kaputt hängt
  fehlgeschlagen funktioniert cassé plante bloqué falla fallando quebrado trava bloccato kapot
  vastgelopen zepsute zawiesza bozuk takılıyor çalışmıyor сломалось ломается зависает вылетает
  работает σταματά توقف يتوقف बंद বন্ধ נתקע קורסת بسته hỏng treo rusak macet kaatuu spadne 不行
  没反应 卡住 打不开 動かない 反応し 終了して 안돼 꺼져 멈춰 ค้าง พัง
release: release deploy rollback migration migrate update upgrade version changelog
  veröffentlichung actualización actualizar atualização aggiornamento aktualizacja güncelleme
  обновление обновления оновлення ενημέρωση تحديث अपडेट আপডেট עדכון آپدیت pembaruan uppdatering
  päivitys frissítés actualizare 更新 升级 迁移 アップデート マイグレーション 업데이트 อัปเดต
file: file files folder folders directory path readme makefile dateien datei ordner fichier
  fichiers dossier archivo archivos carpeta arquivo arquivos pasta cartella bestand bestanden plik
  pliki plików dosya dosyalar klasör файл файлы файлов папка папку αρχεία αρχείο ملف ملفات مجلد
  फ़ाइल फ़ाइलों फ़ोल्डर ফাইল קובץ קבצים תיקייה فایل tệp berkas filer tiedostot soubory fájlokat
  fișierele 文件 文件夹 ファイル フォルダ 파일 폴더 ไฟล์
index: index indexes cache lock deadlock mutex semaphore thread threads socket port async await
  callback promise closure pointer heap stack queue индекс кэш поток индексы 索引 缓存 线程 锁
  死锁 回调 インデックス キャッシュ スレッド 인덱스 캐시 스레드
workflow: workflow pipeline ci cd lint linter formatter prettier eslint dependabot lockfile cron
  crontab webhook pr diff patch hotfix codebase module modules import imports
tech-name: numpy pandas django flask fastapi express spring laravel rails nextjs nuxt vite pytorch
  tensorflow opencv kafka rabbitmq elasticsearch graphql grpc protobuf selenium playwright
  puppeteer unity godot arduino raspberry esp32 vscode neovim tmux jupyter anaconda conda poetry
  homebrew apt systemctl iptables wireguard openssl firebase supabase vercel netlify aws azure gcp
  lambda s3 ec2 oauth jwt cors dns tcp udp http https websocket json csv xlsx
wishes: birthday wishes congratulations congratulate invitation anniversary wedding geburtstag
  glückwunsch grüße hochzeit trinkspruch anniversaire vœux félicitations cumpleaños felicitación
  felicita boda aniversário parabéns casamento compleanno auguri matrimonio verjaardag felicitatie
  urodziny życzenia gratulacje kutlama tebrik поздравь поздравление рождения привітання γενέθλια
  ευχή تهنئة عيد ميلاد जन्मदिन शुभकामना শুভেচ্ছা জন্মদিন ברכה تبریک تولد chúc ucapan födelsedag
  hälsning onnittelu syntymäpäivä narozeniny přání köszöntő születésnap urare aniversare 生日 祝福
  贺卡 誕生日 お祝い 생일 생신 축하 วันเกิด คำอวยพร
capital: capital hauptstadt capitale stolica hoofdstad başkent başkenti столица столицы столиця
  πρωτεύουσα عاصمة राजधानी রাজধানী בירת بيتخت پایتخت huvudstad pääkaupunki fővárosa capitala 首都
  首府 수도 เมืองหลวง
money: mortgage loan interest savings rent salary deposit invest budget hypothek kredit zinsen
  miete gehalt darlehen prêt loyer salaire hipoteca alquiler sueldo ahorros fianza empréstimo
  aluguel dívida salário mutuo affitto stipendio hypotheek huur kredyt czynsz pensja kira maaş
  borç кредит ипотека аренда зарплата вклад іпотека оренда ενοίκιο μισθός راتب إيجار قرض वेतन
  किराया ऋण বেতন ভাড়া משכנתא שכירות שכר حقوق اجاره وام lương thuê gaji sewa ränta lån laina vuokra
  úrok hypotéku hitel kamat credit dobândă 房贷 贷款 工资 租金 利率 年収 家賃 給料 ローン 연봉
  월세 대출 เงินเดือน ค่าเช่า
rights: landlord tenant clause lawsuit court legal contract liable vermieter mieter kündigung
  klausel gericht bail locataire propriétaire licenciement tribunal casero inquilino despido
  contrato juez locador síndico rescisão padrone sfratto licenziamento huurder verhuurder ontslag
  umowa sąd wypowiedzenie sözleşme mahkeme договор суд уволили увольнение арендатор договір
  συμβόλαιο δικαστήριο عقد محكمة किरायेदार अनुबंध חוזה שוכר قرارداد kontrak 合同 房东 补偿 契約 敷金
  違約金 계약 보증금 집주인 สัญญา
better-worth: better cheaper wiser sinnvoller lohnt besser mieux rentable conviene merece mejor
  melhor meglio wijzer beter opłaca lepiej mantıklı karlı выгоднее лучше краще вигідніше συμφέρει
  καλύτερο أفضل बेहतर ভালো עדיף بهتر kannattaako megéri merită 划算 更好 值得 该不该 べきか 得か
  나을까 유리 คุ้มกว่า ดีกว่า
write: write schreib schreibe écris escribe escreva scrivi napisz schrijf yaz напиши написать
  γράψε اكتب लिखो लिखें লিখুন כתוב بنویس viết tulis 写一个 編写 编写 書いて 작성 เขียน
calculate: calculate compute berechne berechnen calcule calculer calcula calcular calcola oblicz
  bereken hesapla вычисли вычислить рассчитай посчитай обчисли υπολόγισε احسب गणना হিসাব חשב
  محاسبه tính hitung 计算 求出 計算 求めよ 계산 คำนวณ
how-many: combien cuántos cuantos cuántas quantos quanti quante hoeveel wieviele wieviel kaç
  сколько скільки πόσα πόσες كم कितने कितनी কত כמה چند berapa 多少 几个 几只 いくつ 何人 何個 몇 กี่
prove: prove proof beweise beweis démontre démontrer prouve demuestra demuestre demonstre dimostra
  udowodnij bewijs kanıtla ispatla докажи доказать докажите доведи απόδειξε أثبت सिद्ध প্রমাণ הוכח
  اثبات chứng buktikan 证明 証明 증명 พิสูจน์
solve: solve löse resuelve resolver résous résoudre risolvi rozwiąż çöz реши решите розв'яжи λύσε
  حل हल সমাধান פתור giải selesaikan 求解 解方程 解いて 풀어 แก้สมการ
equation: equation gleichung équation ecuación equação equazione równanie vergelijking denklem
  уравнение рівняння εξίσωση معادلة समीकरण সমীকরণ משוואה معادله phương persamaan 方程 方程式
  방정식 สมการ
probability: probability wahrscheinlichkeit probabilité probabilidad probabilidade probabilità
  prawdopodobieństwo kans olasılık вероятность ймовірність πιθανότητα احتمال प्रायिकता সম্ভাবনা
  הסתברות xác peluang 概率 確率 확률 ความน่าจะเป็น
percent: percent percentage prozent pourcentage porcentaje porcentagem percentuale procent yüzde
  процент процентов проценты نسبة प्रतिशत শতাংশ אחוז phần 百分 パーセント 퍼센트 เปอร์เซ็นต์
maths: integral derivative matrix theorem integer triangle polynomial ableitung dérivée derivada
  derivata pochodna türev интеграл производная треугольник интегралы wurzel racine тождество 积分
  导数 三角形 整数 函数的 積分 微分 적분 미분 삼각형
compare: compare comparison vergleiche vergleich compara comparer comparar confronta porównaj
  vergelijk karşılaştır сравни сравните порівняй σύγκρινε قارن तुलना তুলনা השווה مقایسه sánh
  bandingkan 比较 对比 比較 비교 เปรียบเทียบ
weigh: tradeoffs weigh abwägen wäge nachteile avantages inconvénients ventajas desventajas
  vantagens desvantagens vantaggi svantaggi zalety wady voordelen nadelen avantaj dezavantaj плюсы
  минусы взвесь достоинства недостатки μειονεκτήματα مزايا عيوب फायदे नुकसान সুবিধা יתרונות חסרונות
  مزایا معایب ưu nhược kelebihan kekurangan 利弊 优缺点 权衡 メリット デメリット 장단점 ข้อดีข้อเสีย
recommend: recommend recommendation empfiehl empfehlung empfehlen recommande recomienda
  recomendación recomende consiglia raccomanda zarekomenduj aanbevelen öner önerirsin посоветуй
  порекомендуй рекомендуй порадь πρότεινε أوصي सिफारिश সুপারিশ המלץ توصیه khuyến rekomendasikan
  建议 推荐 勧め 提案 추천 แนะนำ
analyse: analyse analyze analysis analysiere analysieren analiza analizar analise analizza
  przeanalizuj analyseer analiz проанализируй анализ проаналізуй ανάλυσε حلل विश्लेषण বিশ্লেষণ נתח
  تحلیل phân analisis 分析 分析して 분석 วิเคราะห์
why: why warum wieso pourquoi perché perche dlaczego waarom neden почему отчего чому γιατί لماذا
  क्यों কেন מדוע למה چرا sao mengapa kenapa 为什么 为何 なぜ どうして 왜 ทำไม
cause: cause causes ursache ursachen causa causas przyczyna przyczyny oorzaak sebep nedeni причина
  причины причину причини αιτία سبب कारण কারণ סיבה علت nguyên penyebab 原因 理由 원인 สาเหตุ
justify: justify begründe begründung justifie justifica justifique giustifica uzasadnij onderbouw
  gerekçe gerekçelendir обоснуй обоснуйте обґрунтуй αιτιολόγησε برر तर्क যুক্তি נמק استدلال luận
  alasan 论证 说明理由 根拠 근거 เหตุผล
step-by-step: schritt étape étapes paso pasos passo passi krok kroku stap adım пошагово шаг шагам
  покроково βήμα خطوة चरण ধাপ שלב گام bước langkah 步骤 一步步 逐步 途中式 段階 단계 ขั้นตอน
plan: plan planning plane planifie planifica planeje pianifica zaplanuj planla спланируй план
  спланувати σχεδίασε خطط योजना পরিকল্পনা תכנן برنامه‌ریزی kế rencana 规划 方案 計画 계획 วางแผน
estimate: estimate schätze estimation estime estima estimar stima oszacuj schat tahmin оцени
  оцените оціни εκτίμησε قدّر अनुमान অনুমান הערך تخمین ước perkirakan 估算 估计 見積もり 推定 추정
  ประมาณ
decide: decide decision entscheide entscheidung décider decidir decisión decidere zdecyduj
  beslissen karar решить решение вирішити αποφασίσω قرار निर्णय সিদ্ধান্ত החלטה تصمیم quyết keputusan
  决定 是否应该 判断 決める 결정 ตัดสินใจ
if-then: suppose assume angenommen supposons suponga suponiendo supponiamo załóżmy stel varsayalım
  предположим допустим припустимо υποθέτοντας افترض मान लीजिए ধরুন נניח فرض giả misalkan 假设 如果
  仮定 もし 가정
puzzle: puzzle riddle rätsel énigme acertijo indovinello zagadka raadsel bilmece загадка
  головоломка γρίφος لغز पहेली ধাঁধা חידה معما đố 谜题 推理 逻辑 パズル 論理 수수께끼 논리
translate: translate translation übersetze übersetzen traduis traduire traduce traducir traduza
  traduci przetłumacz vertaal çevir переведи перевод перекладі переклади μετάφρασε ترجم अनुवाद
  অনুবাদ תרגם ترجمه dịch terjemahkan 翻译 翻訳 訳して 번역 แปล
summarise: summarise summarize summary zusammenfassen fasse résume résumer resume resumir resuma
  riassumi streść vatsamen samenvatten özetle перескажи резюмируй кратко підсумуй περίληψη لخص
  सारांश সারাংশ סכם خلاصه tóm ringkas 总结 概括 摘要 要約 まとめて 요약 สรุป
define: definition bedeutet bedeutung signifie significa significado oznacza znaczy betekent demek
  означает значит σημαίνει معنى मतलब অর্থ פירוש معنی nghĩa artinya 什么意思 意思 意味 뜻 หมายความ
who-when: who wer wann quién quien cuándo quando quand chi kto kiedy wie wanneer kim zaman кто
  когда хто коли ποιος πότε متى कौन कब কে কখন מי מתי کجا siapa kapan 谁 什么时候 誰 いつ 누구 언제
  ใคร เมื่อไหร่
greeting: hello hi hey hallo moin servus bonjour salut hola buenas olá oi ciao cześć hoi merhaba
  selam привет здравствуйте привіт γεια مرحبا नमस्ते হ্যালো שלום سلام xin halo 你好 您好 こんにちは
  おはよう 안녕 สวัสดี
thanks: thanks thank thx danke merci gracias obrigado obrigada grazie dziękuję dzięki bedankt
  teşekkür teşekkürler спасибо дякую ευχαριστώ شكرا धन्यवाद ধন্যবাদ תודה ممنون cảm terima 谢谢 多谢
  ありがとう 감사 고마워 ขอบคุณ
remind: remind reminder erinnere rappelle recuérdame lembre ricordami przypomnij herinner hatırlat
  напомни нагадай υπενθύμισε ذكرني याद মনে הזכר nhắc ingatkan 提醒 リマインド 알려줘 เตือน
everyday: recipe weather rezept wetter recette météo receta clima tiempo receita ricetta meteo
  przepis pogoda recept weer tarif hava рецепт погода погоду συνταγή καιρός وصفة طقس मौसम रेसिपी
  আবহাওয়া מתכון מזג آب‌وهوا thời resep cuaca 天气 菜谱 天気 レシピ 날씨 레시피 อากาศ
poem: poem story song gedicht geschichte poème histoire poema cuento história poesia storia wiersz
  opowiadanie verhaal şiir hikaye стих стихотворение сказку вірш ποίημα قصيدة कविता কবিতা שיר شعر
  thơ puisi 诗 故事 詩 物語 이야기 กลอน
message: email letter message brief nachricht courriel lettre correo carta mensaje mensagem
  lettera messaggio wiadomość bericht mesaj письмо сообщение лист повідомлення μήνυμα رسالة ईमेल
  संदेश বার্তা מכתב نامه thư surat 邮件 短信 メール 手紙 이메일 편지 จดหมาย
"""

_INSIDE = re.compile("[\u0e00-\u0eff\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _read(table: str) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Return (stem -> concept, pairs of a part of a text and its concept); the first concept keeps a word."""
    stems: dict[str, str] = {}
    parts: dict[str, str] = {}
    for line in table.strip().replace("\n  ", " ").splitlines():
        concept, _, words = line.partition(": ")
        for word in words.split():
            if _INSIDE.search(word):
                parts.setdefault(word, concept)
            else:
                stems.setdefault(word[:STEM], concept)
    return stems, tuple(parts.items())


STEMS, PARTS = _read(_TABLE)
